"""The scim2-server application for an ASGI server: `uvicorn scim2_asgi:application`.

Its own command serves HTTP/1.0, one request a connection. Under uvicorn the same application
speaks HTTP/1.1 with keep-alive, over another storage and another reader of bodies. With
`STATIC_TOKEN` in the environment it takes that bearer token and no other. It prints the trace
that each request belongs to.
"""

import os

from scim2_models import UnauthorizedException
from scim2_server.applications.asgi import ASGIApplication
from scim2_server.memory import AsyncInMemoryStorage
from scim2_server.requests import ScimRequest
from scim2_server.service import ScimService
from scim2_server.utils import load_default_provider

TOKEN = os.environ.get("STATIC_TOKEN")


class Application(ASGIApplication):
    def check_auth(self, request: ScimRequest) -> None:
        print("traceparent:", request.header("traceparent"), flush=True)
        if TOKEN and request.header("Authorization") != f"Bearer {TOKEN}":
            raise UnauthorizedException


provider = load_default_provider()
service = ScimService(provider, secret="the cursors of one test run")
application = Application(AsyncInMemoryStorage(), provider, service)
