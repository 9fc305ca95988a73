"""From result files to tables: grouped, ranked, rendered, explained."""
