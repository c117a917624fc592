"""gunicorn's settings that no option of every release has."""

# Newer releases open a control socket in the home directory.
control_socket_disable = True
