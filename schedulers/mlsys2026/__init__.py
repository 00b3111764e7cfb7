"""The MLSys 2026 graph-scheduling contest: instances, schedules, and an evaluator of its rules."""
