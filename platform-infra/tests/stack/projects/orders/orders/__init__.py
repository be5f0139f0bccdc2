"""Orders of a till that never closes."""
