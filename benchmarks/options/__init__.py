"""What a run is asked for: its options, cluster.yaml, grid files."""
