{{/* Names end in -triton-predictor with KServe, and may have 63 characters. */}}
{{- define "cpcsam.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $default := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- default $default .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels by which a component's pods are found: list $ COMPONENT. */}}
{{- define "cpcsam.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride | trunc 63 }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "cpcsam.labels" -}}
{{- $root := index . 0 -}}
{{ include "cpcsam.selector" . }}
app.kubernetes.io/part-of: cpcsam
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "cpcsam.metadata" -}}
{{- $root := index . 0 -}}
name: {{ include "cpcsam.fullname" $root }}-{{ index . 1 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "cpcsam.labels" . | nindent 2 }}
{{- end -}}

{{- define "cpcsam.serviceAccountName" -}}
{{- $default := .Values.serviceAccount.create | ternary (include "cpcsam.fullname" .) "default" -}}
{{- default $default .Values.serviceAccount.name -}}
{{- end -}}

{{/* Image by tag, the chart's version by default, and digest: list $ IMAGE. */}}
{{- define "cpcsam.image" -}}
{{- $root := index . 0 -}}
{{- with index . 1 -}}
{{ .repository }}:{{ default $root.Chart.AppVersion .tag }}{{ with .digest }}@{{ . }}{{ end }}
{{- end -}}
{{- end -}}

{{/* Fields of a pod that all components have: list $ COMPONENT. */}}
{{- define "cpcsam.pod" -}}
{{- $root := index . 0 -}}
{{- with index $root.Values (index . 1) -}}
automountServiceAccountToken: false
# Otherwise services of the namespace would set variables such as CPCSAM_GATEWAY_PORT.
enableServiceLinks: false
securityContext:
  {{- toYaml $root.Values.podSecurityContext | nindent 2 }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
topologySpreadConstraints:
{{- $selector := . -}}
{{- with index $root.Values (index . 1) }}
{{- if .topologySpreadConstraints }}
  {{- toYaml .topologySpreadConstraints | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "cpcsam.selector" $selector | nindent 8 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Deployment without its pods: list $ COMPONENT. Nothing is ready before Triton, which may take startupSeconds
     to load and then has to answer its first probe; a front that came too early is started again within
     five minutes, the kubelet's longest pause. */}}
{{- define "cpcsam.deployment" -}}
{{- $root := index . 0 -}}
{{- with index $root.Values (index . 1) -}}
strategy:
  type: RollingUpdate
  rollingUpdate:
    {{- toYaml .rollingUpdate | nindent 4 }}
progressDeadlineSeconds: {{ add $root.Values.triton.startupSeconds 600 }}
{{- if not .autoscaling.enabled }}
replicas: {{ .replicaCount }}
{{- end }}
{{- end }}
selector:
  matchLabels:
    {{- include "cpcsam.selector" . | nindent 4 }}
{{- end -}}

{{- define "cpcsam.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $values := index $root.Values (index . 1) -}}
labels:
  {{- include "cpcsam.labels" . | nindent 2 }}
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Annotations with digests of what a program reads once from Secrets, when it starts; none for a Secret that
     is not there yet, or without a cluster: list $ (list NAME SECRET KEY) ... */}}
{{- define "cpcsam.checksums" -}}
{{- $namespace := (first .).Release.Namespace -}}
{{- range rest . }}
{{- $name := index . 0 }}
{{- $key := index . 2 }}
{{- with index . 1 }}
{{- with lookup "v1" "Secret" $namespace . }}
checksum/{{ $name }}: {{ get .data $key | sha256sum }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "cpcsam.scrapeMilliseconds" -}}
{{- $unit := regexFind "[a-z]+$" .Values.serviceMonitor.interval -}}
{{- mul (regexFind "^[0-9]+" .Values.serviceMonitor.interval) (get (dict "ms" 1 "s" 1000 "m" 60000) $unit) -}}
{{- end -}}

{{- define "cpcsam.disruptionBudget" -}}
{{- $root := index . 0 -}}
{{- with (index $root.Values (index . 1)).podDisruptionBudget }}
{{- if .enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "cpcsam.metadata" $ | nindent 2 }}
spec:
  maxUnavailable: {{ .maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "cpcsam.selector" $ | nindent 6 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "cpcsam.autoscaler" -}}
{{- $root := index . 0 -}}
{{- with (index $root.Values (index . 1)).autoscaling }}
{{- if .enabled }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "cpcsam.metadata" $ | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "cpcsam.fullname" $root }}-{{ index $ 1 }}
  minReplicas: {{ .minReplicas }}
  maxReplicas: {{ .maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: {{ .targetCPUUtilizationPercentage }}}
    {{- with .metrics }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .behavior }}
  behavior:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}
