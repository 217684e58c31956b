"""The kinds of edges for which no package has a schema: their keys as far as deploy/edges uses them, and no others.

Written from the definitions of Gateway API 1.6, Traefik 3.7 and Envoy Gateway 1.9. Where only one value is safe, only that
one is taken: a default is never safe by itself, since it is the edge's to change.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: str
    namespace: str


class Resource(Strict):
    apiVersion: str
    kind: str
    metadata: Metadata


class Reference(Strict):
    group: str
    kind: str
    name: str


class Port(Strict):
    name: str
    port: int


# gateway.networking.k8s.io

class CertificateReference(Strict):
    name: str


class ListenerTls(Strict):
    certificateRefs: list[CertificateReference] = Field(min_length=1)


class Listener(Strict):
    name: str
    protocol: Literal["HTTPS"]  # A token must not come in the clear.
    port: int
    hostname: str
    tls: ListenerTls


class GatewaySpec(Strict):
    gatewayClassName: Literal["traefik", "eg"]
    listeners: list[Listener] = Field(min_length=1)


class Gateway(Resource):
    spec: GatewaySpec


class Parent(Strict):
    name: str
    sectionName: str


class Path(Strict):
    type: Literal["PathPrefix"]
    value: str


class Match(Strict):
    path: Path


class Filter(Strict):
    type: Literal["ExtensionRef"]
    extensionRef: Reference


class Rule(Strict):
    matches: list[Match] = Field(min_length=1)
    filters: list[Filter] = []
    backendRefs: list[Port] = Field(min_length=1)


class HTTPRouteSpec(Strict):
    parentRefs: list[Parent] = Field(min_length=1)
    hostnames: list[str] = Field(min_length=1)
    rules: list[Rule] = Field(min_length=1)


class HTTPRoute(Resource):
    spec: HTTPRouteSpec


class Grantee(Strict):
    group: Literal["gateway.envoyproxy.io"]
    kind: Literal["SecurityPolicy"]
    namespace: str


class Granted(Strict):
    group: Literal[""]
    kind: Literal["Service"]
    name: Literal["scim-guard"]


class ReferenceGrantSpec(Strict):
    from_: list[Grantee] = Field(alias="from", min_length=1)
    to: list[Granted] = Field(min_length=1)


class ReferenceGrant(Resource):
    apiVersion: Literal["gateway.networking.k8s.io/v1beta1"]
    kind: Literal["ReferenceGrant"]
    spec: ReferenceGrantSpec


# traefik.io

class ForwardAuth(Strict):
    address: str
    trustForwardHeader: Literal[False]
    authResponseHeadersRegex: str
    maxResponseBodySize: int


class MiddlewareSpec(Strict):
    forwardAuth: ForwardAuth


class Middleware(Resource):
    spec: MiddlewareSpec


class MiddlewareReference(Strict):
    name: str


class RouteService(Port):
    kind: Literal["Service"]


class Route(Strict):
    kind: Literal["Rule"]
    match: str
    middlewares: list[MiddlewareReference] = Field(min_length=1)
    services: list[RouteService] = Field(min_length=1)


class RouteTls(Strict):
    secretName: str


class IngressRouteSpec(Strict):
    entryPoints: list[Literal["websecure"]] = Field(min_length=1)
    routes: list[Route] = Field(min_length=1)
    tls: RouteTls


class IngressRoute(Resource):
    spec: IngressRouteSpec


# gateway.envoyproxy.io

class ExtAuthHttp(Strict):
    backendRefs: list[Port] = Field(min_length=1, max_length=1)
    path: str
    headersToBackend: list[str]


class ExtAuth(Strict):
    http: ExtAuthHttp
    timeout: Literal["1s"]
    failOpen: Literal[False]
    statusOnError: Literal[503]


class SecurityPolicySpec(Strict):
    targetRefs: list[Reference] = Field(min_length=1)
    extAuth: ExtAuth


class SecurityPolicy(Resource):
    spec: SecurityPolicySpec


class NameMatch(Strict):
    type: Literal["RegularExpression"]
    value: str


class EarlyRequestHeaders(Strict):
    removeOnMatch: list[NameMatch] = Field(min_length=1, max_length=1)


class RequestHeaders(Strict):
    withUnderscoresAction: Literal["RejectRequest"]
    earlyRequestHeaders: EarlyRequestHeaders


class RequestPath(Strict):
    escapedSlashesAction: Literal["RejectRequest"]


class ClientTrafficPolicySpec(Strict):
    targetRefs: list[Reference] = Field(min_length=1)
    headers: RequestHeaders
    path: RequestPath


class ClientTrafficPolicy(Resource):
    spec: ClientTrafficPolicySpec


# The values of istiod's chart, which no definition covers: meshConfig of Istio 1.31.

class ExternalAuthorization(Strict):
    service: str
    port: int
    pathPrefix: str
    timeout: Literal["1s"]
    failOpen: Literal[False]
    statusOnError: Literal["503"]
    includeRequestHeadersInCheck: list[Literal["authorization"]] = Field(min_length=1, max_length=1)
    headersToUpstreamOnAllow: list[str]


class ExtensionProvider(Strict):
    name: str
    envoyExtAuthzHttp: ExternalAuthorization


class MeshConfig(Strict):
    extensionProviders: list[ExtensionProvider] = Field(min_length=1)


class Mesh(Strict):
    meshConfig: MeshConfig
