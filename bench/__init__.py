"""The harness: problems, metrics, matrices, cells, records, tables, plots, reports, command line."""
