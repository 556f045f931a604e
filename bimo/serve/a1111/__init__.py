"""AUTOMATIC1111's API, /sdapi/v1, for its clients and plug-ins. Ignored settings are listed in the response's ``info``
under ``warnings``. Callers only see and interrupt their own jobs.
"""

from bimo.serve.a1111 import controlnet, drawing, extras, lists, progress

ROUTERS = (drawing.router, progress.router, progress.internal, lists.router, extras.router, controlnet.router)
