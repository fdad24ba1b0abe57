{{/* Labels of a part: (dict "root" $ "part" "site"). */}}
{{- define "fedrx.selector" -}}
app.kubernetes.io/name: fedrx
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "fedrx.labels" -}}
{{ include "fedrx.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "fedrx.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{/* Without root, without new rights, and with a temporary folder as the only thing to write to
     besides the volume. */}}
{{- define "fedrx.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "fedrx.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* gRPC health, asked from inside: the health service listens on loopback, which the kubelet's own
     grpc probe cannot reach. (dict "port" 9445) */}}
{{- define "fedrx.probes" -}}
startupProbe:
  exec: {command: [fedrx-probe, {{ .port | quote }}]}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 36
readinessProbe:
  exec: {command: [fedrx-probe, {{ .port | quote }}]}
  periodSeconds: 30
  timeoutSeconds: 5
{{- end }}

{{- define "fedrx.claim" -}}
- metadata:
    name: data
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .className }}
    storageClassName: {{ . | quote }}
    {{- end }}
    resources:
      requests:
        storage: {{ .size }}
{{- end }}
