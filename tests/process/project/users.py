"""Sessions for the users of the tests."""

from django.http import HttpResponse


def log_in(request, name):
    """Begin a session for a user of the tests."""
    from django.contrib.auth import get_user_model, login

    user = get_user_model().objects.get(username=name)
    login(request, user, "django.contrib.auth.backends.ModelBackend")
    return HttpResponse("well")
