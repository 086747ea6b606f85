from processes import apart, launch, ranks  # noqa: F401
