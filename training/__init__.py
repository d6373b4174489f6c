"""Training runs: settings, losses, the fit itself and what it leaves on disk."""
