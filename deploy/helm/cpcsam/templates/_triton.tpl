{{/* The container of Triton, in a Deployment as in a ServingRuntime: list $ NAME FOLDER_OF_MODELS. */}}
{{- define "cpcsam.tritonContainer" -}}
{{- $root := index . 0 -}}
{{- $models := index . 2 -}}
{{- with $root.Values.triton -}}
name: {{ index $ 1 }}
image: {{ include "cpcsam.image" (list $root .image) }}
imagePullPolicy: {{ .image.pullPolicy }}
command: [deploy/triton.sh]
{{- with .extraArgs }}
args:
  {{- toYaml . | nindent 2 }}
{{- end }}
env:
  - {name: CPCSAM_MODELS, value: {{ $models }}}
  - {name: HOME, value: /tmp}
  # The Python backend is laid out below it; the image's own folder cannot be written.
  - {name: XDG_CACHE_HOME, value: /tmp}
  {{- with .extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - {name: http, containerPort: 8000, protocol: TCP}
  - {name: grpc, containerPort: 8001, protocol: TCP}
  - {name: metrics, containerPort: 8002, protocol: TCP}
# Triton says that it is ready when a step is dead, so both probes infer.
startupProbe:
  {{- include "cpcsam.tritonInference" .probe | nindent 2 }}
  periodSeconds: 5
  failureThreshold: {{ div (add .startupSeconds 4) 5 }}
readinessProbe:
  {{- include "cpcsam.tritonInference" .probe | nindent 2 }}
  periodSeconds: {{ .probe.periodSeconds }}
  failureThreshold: 3
# serving.watch ends the container when Triton or a step ends; this is for a Triton that hangs.
livenessProbe:
  httpGet: {path: /v2/health/live, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
lifecycle:
  preStop:
    sleep: {seconds: {{ .drainSeconds }}}
{{- $limits := .resources.limits }}
{{- $requests := .resources.requests }}
{{- if eq .target "gpu" }}
{{- $limits = merge (dict "nvidia.com/gpu" (toString .gpus)) (default dict $limits) }}
{{- $requests = merge (dict "nvidia.com/gpu" (toString .gpus)) (default dict $requests) }}
{{- end }}
resources:
  {{- merge (dict "limits" $limits "requests" $requests) .resources | toYaml | nindent 2 }}
securityContext:
  {{- toYaml $root.Values.securityContext | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: shm, mountPath: /dev/shm}
{{- end }}
{{- end -}}

{{- define "cpcsam.tritonInference" -}}
exec:
  command: [python3, -m, serving.watch, --timeout, {{ .timeoutSeconds | quote }}]
timeoutSeconds: {{ add .timeoutSeconds 5 }}
{{- end -}}

{{/* Fields of Triton's pods besides those of cpcsam.pod. */}}
{{- define "cpcsam.tritonPod" -}}
{{- with .Values.triton -}}
# The pause before SIGTERM, then Triton's own limit for running requests (deploy/triton.sh).
terminationGracePeriodSeconds: {{ add .drainSeconds 30 }}
{{- with .runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- $tolerations := .tolerations }}
{{- if eq .target "gpu" }}
{{- $tolerations = append $tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") }}
{{- end }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "cpcsam.tritonVolumes" -}}
- {name: tmp, emptyDir: {sizeLimit: 1Gi}}
- {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ .Values.triton.sharedMemory }}}}
{{- end -}}
