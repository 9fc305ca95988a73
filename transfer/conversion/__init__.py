"""The files of a target, proved to hold the same network, with a certificate."""
