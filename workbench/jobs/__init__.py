"""The runner: a job store, one daemon, one detached worker process per job, and a warm engine for the screens."""
