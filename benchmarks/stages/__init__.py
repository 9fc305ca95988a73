"""What a run does: its stages, their cost, what stands already, running them here."""
