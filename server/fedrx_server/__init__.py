"""The coordinator: rounds, aggregation, run store, report. Never imports the client."""
