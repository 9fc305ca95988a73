"""What is asked for, and the detectron2 config and starting weights that it resolves to."""
