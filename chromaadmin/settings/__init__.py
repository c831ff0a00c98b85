"""Settings: `base` for every real process, `test` for the test run, `config` for what the environment decides."""
