{{/* The image of agent and operator. */}}
{{- define "oxilium.image" -}}
{{- if .Values.image.override -}}
{{ .Values.image.override }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- if .Values.image.useDigest }}@{{ required "image.digest is needed with image.useDigest" .Values.image.digest }}{{ end }}
{{- end -}}
{{- end -}}

{{/* Labels of all objects. */}}
{{- define "oxilium.labels" -}}
app.kubernetes.io/part-of: cilium
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* Where the API server is, for pods that cannot use the Service. */}}
{{- define "oxilium.apiServer" -}}
{{- with .Values.k8sServiceHost }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ . | quote }}
{{- end }}
{{- with .Values.k8sServicePort }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Where the ConfigMap of the CNI configuration is mounted. */}}
{{- define "oxilium.cniConfiguration" -}}/tmp/cni-configuration{{- end -}}

{{/* A container that may do nothing but what its user may. */}}
{{- define "oxilium.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
