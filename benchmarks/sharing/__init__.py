"""Results for others: bundles, anonymous ones, imports."""
