"""What every layer needs: errors, names, settings, projects, run records. Knows no service."""
