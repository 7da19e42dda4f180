"""What every stage may use: dtypes, texts, readers of files, modules and the state of the process. Imports no stage."""
