from processes import launch, ranks  # noqa: F401
