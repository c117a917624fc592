"""A view for when there is no connection."""

from django.http import JsonResponse


def busy(request, exception):
    return JsonResponse(
        {"busy": exception.alias, "by": type(exception).__name__}, status=503
    )
