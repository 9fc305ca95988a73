"""Results for others: the report, bundles, anonymous ones, imports."""
