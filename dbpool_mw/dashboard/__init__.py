"""The page of the pools, in Django's admin and on its own.

Opened by a session it asks the database who the user is; what it shows, and how it
goes on, comes from the workers' control sockets alone.
"""
