"""What a checkpoint file is: opened safely, its layout, its network, its names."""
