"""The folder of a training: bound to one configuration, its checkpoints, its metrics, the kill drill."""
