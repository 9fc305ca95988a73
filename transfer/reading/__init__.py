"""What a stranger's checkpoint is: opened safely, its layout, its network, its names."""
