{{- define "drop.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of all objects. */}}
{{- define "drop.fullname" -}}
{{- $name := include "drop.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "drop.selectorLabels" -}}
app.kubernetes.io/name: {{ include "drop.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "drop.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "drop.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: drop
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "drop.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "drop.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: name an account that is there, or set serviceAccount.create=true" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The PriorityClass of pull Pods; empty if there is none. */}}
{{- define "drop.podPriorityClass" -}}
{{- with .Values.pullPods.priorityClass }}
{{- if .create }}
{{- default (printf "%s-pull" (include "drop.fullname" $)) .name }}
{{- else }}
{{- .name }}
{{- end }}
{{- end }}
{{- end }}

{{- define "drop.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* Whoever is bound to the roles. */}}
{{- define "drop.subjects" -}}
- kind: ServiceAccount
  name: {{ include "drop.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}
