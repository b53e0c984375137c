{{- define "caracal-gateway.pod" -}}
metadata:
  labels:
    {{- include "caracal-gateway.selectorLabels" . | nindent 4 }}
    app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "caracal-gateway.serviceAccountName" . }}
  automountServiceAccountToken: false
  # A Service of the namespace that is called `sts`, say, would set variables that begin like the gateway's.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add .Values.shutdown.timeoutSeconds 10 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  containers:
    - name: gateway
      {{- $image := .Values.image }}
      image: {{ if $image.digest }}{{ printf "%s@%s" $image.repository $image.digest }}{{ else }}{{ printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) }}{{ end }}
      imagePullPolicy: {{ $image.pullPolicy }}
      command: [/usr/local/bin/gateway]
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      env:
        {{- range $name, $value := .Values.config }}
        - name: {{ $name }}
          value: {{ $value | quote }}
        {{- end }}
        {{- range $name, $from := .Values.secrets }}
        {{- if $from.name }}
        - name: {{ $name }}_FILE
          value: /etc/caracal/secrets/{{ $name }}
        {{- end }}
        {{- end }}
        {{- if include "caracal-gateway.bindingsConfigMap" . }}
        - name: BINDINGS_FILE
          value: /etc/caracal/bindings/bindings.yaml
        {{- end }}
        {{- if .Values.tls.secretName }}
        - name: TLS_CERT_FILE
          value: /etc/caracal/tls/tls.crt
        - name: TLS_KEY_FILE
          value: /etc/caracal/tls/tls.key
        {{- end }}
        - name: PORT
          value: '8081'
        - name: AUDIT_REPLAY_DIR
          value: /var/lib/caracal/audit-replay
        - name: SHUTDOWN_DELAY
          value: {{ .Values.shutdown.delaySeconds }}s
        - name: SHUTDOWN_TIMEOUT
          value: {{ .Values.shutdown.timeoutSeconds }}s
      ports:
        - name: {{ include "caracal-gateway.scheme" . }}
          containerPort: 8081
          protocol: TCP
      startupProbe:
        {{- include "caracal-gateway.probe" (list . "/health") | nindent 8 }}
        periodSeconds: 1
        failureThreshold: 60
      livenessProbe:
        {{- include "caracal-gateway.probe" (list . "/health") | nindent 8 }}
        periodSeconds: 10
        failureThreshold: 6
      readinessProbe:
        {{- include "caracal-gateway.probe" (list . "/ready") | nindent 8 }}
        periodSeconds: 2
        failureThreshold: 2
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - name: evidence
          mountPath: /var/lib/caracal
        - name: secrets
          mountPath: /etc/caracal/secrets
          readOnly: true
        {{- if include "caracal-gateway.bindingsConfigMap" . }}
        # The whole directory: a mount of the file alone never sees a change.
        - name: bindings
          mountPath: /etc/caracal/bindings
          readOnly: true
        {{- end }}
        {{- if .Values.tls.secretName }}
        - name: tls
          mountPath: /etc/caracal/tls
          readOnly: true
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    {{- if eq .Values.audit.storage "shared" }}
    - name: evidence
      persistentVolumeClaim:
        claimName: {{ required "audit.existingClaim is required with audit.storage: shared" .Values.audit.existingClaim }}
    {{- else if eq .Values.audit.storage "ephemeral" }}
    - name: evidence
      emptyDir:
        sizeLimit: {{ .Values.audit.size }}
    {{- end }}
    - name: secrets
      projected:
        defaultMode: 0440
        sources:
          {{- range $name, $from := .Values.secrets }}
          {{- if $from.name }}
          - secret:
              name: {{ $from.name }}
              items:
                - key: {{ $from.key }}
                  path: {{ $name }}
          {{- end }}
          {{- end }}
    {{- with include "caracal-gateway.bindingsConfigMap" . }}
    - name: bindings
      configMap:
        name: {{ . }}
    {{- end }}
    {{- with .Values.tls.secretName }}
    - name: tls
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  topologySpreadConstraints:
    {{- include "caracal-gateway.spread" . | nindent 4 }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "caracal-gateway.probe" -}}
httpGet:
  path: {{ index . 1 }}
  port: {{ include "caracal-gateway.scheme" (index . 0) }}
  scheme: {{ include "caracal-gateway.scheme" (index . 0) | upper }}
timeoutSeconds: 1
{{- end -}}

{{- define "caracal-gateway.spread" -}}
{{- $selector := dict "labelSelector" (dict "matchLabels" (include "caracal-gateway.selectorLabels" . | fromYaml)) -}}
{{- $anyway := dict "maxSkew" 1 "whenUnsatisfiable" "ScheduleAnyway" -}}
{{- $zones := merge (dict "topologyKey" "topology.kubernetes.io/zone") $anyway -}}
{{- $nodes := merge (dict "topologyKey" "kubernetes.io/hostname") $anyway -}}
{{- $constraints := list -}}
{{- range default (list $zones $nodes) .Values.topologySpreadConstraints -}}
{{- $constraints = append $constraints (ternary . (merge (deepCopy .) $selector) (hasKey . "labelSelector")) -}}
{{- end -}}
{{- toYaml $constraints -}}
{{- end -}}
