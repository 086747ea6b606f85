"""Training beside the step: guards, resuming, evaluation, logs."""
