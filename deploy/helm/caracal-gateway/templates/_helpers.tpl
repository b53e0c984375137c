{{- define "caracal-gateway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "caracal-gateway.fullname" -}}
{{- /* 52 characters: a StatefulSet's pods and their revision label have the name with more behind it. */ -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "caracal-gateway.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $full | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "caracal-gateway.selectorLabels" -}}
app.kubernetes.io/name: {{ include "caracal-gateway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "caracal-gateway.labels" -}}
{{ include "caracal-gateway.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: gateway
app.kubernetes.io/part-of: caracal
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "caracal-gateway.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "caracal-gateway.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "caracal-gateway.kind" -}}
{{- ternary "StatefulSet" "Deployment" (eq .Values.audit.storage "claim") -}}
{{- end -}}

{{- define "caracal-gateway.scheme" -}}
{{- ternary "https" "http" (not (empty .Values.tls.secretName)) -}}
{{- end -}}

{{- define "caracal-gateway.bindingsConfigMap" -}}
{{- if .Values.bindings.document -}}
{{- include "caracal-gateway.fullname" . }}-bindings
{{- else -}}
{{- .Values.bindings.configMap -}}
{{- end -}}
{{- end -}}
