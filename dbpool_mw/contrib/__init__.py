"""The pools in other packages' workers; each is an app for INSTALLED_APPS."""
