"""Mixed precision O2: settings, casting, overflow, and two engines."""
