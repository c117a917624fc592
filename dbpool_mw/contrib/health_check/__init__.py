"""The pools as a check of django-health-check; an app for its plugins up to 3.24."""
