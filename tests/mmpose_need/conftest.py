from processes import launch  # noqa: F401
