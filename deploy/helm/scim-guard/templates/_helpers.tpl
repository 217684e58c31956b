{{- define "scim-guard.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- /* Takes the root and a component, as do all below that name one. */ -}}
{{- define "scim-guard.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "scim-guard.labels" -}}
{{ include "scim-guard.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "scim-guard.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "scim-guard.container" -}}
image: {{ printf "%s@%s" .Values.image.repository .Values.image.digest }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
startupProbe:
  httpGet: { path: /livez, port: 9090 }
  periodSeconds: 1
  failureThreshold: 120
readinessProbe:
  httpGet: { path: /readyz, port: 9090 }
  periodSeconds: 5
  failureThreshold: 2
livenessProbe:
  httpGet: { path: /livez, port: 9090 }
  periodSeconds: 10
  failureThreshold: 3
# The Services forget this Pod while it still serves.
lifecycle:
  preStop:
    sleep: { seconds: 5 }
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
terminationMessagePolicy: FallbackToLogsOnError
{{- end -}}

{{- define "scim-guard.admin-config" -}}
credentials:
  source: embedded
admin:
  listen: 0.0.0.0:8081
  tls: { certificate: /run/scim-guard/tls/tls.crt, private_key: /run/scim-guard/tls/tls.key }
  store: sqlite:/var/lib/scim-guard/admin.db
  tenants: {{ toJson .Values.admin.tenants }}
  tokens:
    - { name: proxies, role: replica, token: "file:/run/scim-guard/replica/replica.token" }
  {{- with .Values.admin.config }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ops:
  listen: 0.0.0.0:9090
log: {{ toJson .Values.log }}
{{- end -}}

{{- /* gRPC is HTTP/2, which an edge must know before it asks. */ -}}
{{- define "scim-guard.decision-protocol" -}}
{{- if .Values.proxy.tlsSecret }}https{{ else if eq .Values.decision.edge "envoy-grpc" }}kubernetes.io/h2c{{ else }}http{{ end -}}
{{- end -}}

{{- define "scim-guard.proxy-config" -}}
{{- $tls := "tls: { certificate: /run/scim-guard/tls/tls.crt, private_key: /run/scim-guard/tls/tls.key }" -}}
{{- if .Values.decision.edge -}}
decision:
  - address: 0.0.0.0:8082
    edge: {{ .Values.decision.edge }}
    {{- if .Values.proxy.tlsSecret }}
    {{ $tls }}
    {{- end }}
{{ end -}}
proxy:
  {{- if not .Values.decision.only }}
  listeners:
    - address: 0.0.0.0:8080
      {{- if .Values.proxy.tlsSecret }}
      {{ $tls }}
      {{- end }}
  {{- end }}
  {{- with .Values.proxy.trustedProxies }}
  trusted_proxies: {{ toJson . }}
  {{- end }}
  limits: {{ toJson .Values.proxy.limits }}
  # preStop has waited already until the Services had forgotten the Pod.
  drain: { delay: 1s, deadline: 20s }
  routes:
    {{- toYaml .Values.proxy.routes | nindent 4 }}
credentials:
  source: native
  native:
    url: {{ if .Values.admin.enabled }}https://{{ include "scim-guard.name" . }}-admin:8081{{ else }}{{ .Values.admin.url }}{{ end }}
    token: file:/run/scim-guard/credentials/replica.token
    ca: /run/scim-guard/credentials/ca.crt
  deny: /run/scim-guard/deny/deny.yaml
  max_stale: {{ toJson .Values.proxy.maxStale }}
ops:
  listen: 0.0.0.0:9090
log: {{ toJson .Values.log }}
{{- end -}}
