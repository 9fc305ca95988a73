"""From result files to rows: grouped into what may be averaged, compared in pairs, ranked."""
