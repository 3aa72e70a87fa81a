{{/* The name of every object of the release. */}}
{{- define "quantfleet.fullname" -}}
{{- $name := .Release.Name -}}
{{- if .Values.fullnameOverride -}}
{{- $name = .Values.fullnameOverride -}}
{{- else if not (contains .Chart.Name $name) -}}
{{- $name = printf "%s-%s" $name .Chart.Name -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "%q cannot name a Ray cluster: start with a letter, then letters, digits and dashes. Set fullnameOverride." $name) -}}
{{- end -}}
{{- if gt (len $name) 50 -}}
{{- fail (printf "%q has %d characters, KubeRay takes at most 50 for a RayCluster. Set a shorter fullnameOverride." $name (len $name)) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* The RayJob's name: <fullname>-<run name>. */}}
{{- define "quantfleet.runName" -}}
{{- $recipe := base .Values.rayJob.recipe | trimSuffix ".yaml" | trimSuffix ".yml" -}}
{{- $run := .Values.rayJob.runName | default (regexReplaceAll "[^a-z0-9]+" (lower $recipe) "-" | trimAll "-") -}}
{{- $name := printf "%s-%s" (include "quantfleet.fullname" .) $run -}}
{{- if gt (len $name) 47 -}}
{{- fail (printf "RayJob name %q has %d characters, KubeRay takes at most 47. Set a shorter rayJob.runName or fullnameOverride." $name (len $name)) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/*
What the pods of one release have in common, and what the network policy selects by. `app.kubernetes.io/name` is left
out on purpose: KubeRay writes its own value there and selects the head by it.
*/}}
{{- define "quantfleet.selectorLabels" -}}
app.kubernetes.io/part-of: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "quantfleet.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
{{ include "quantfleet.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "quantfleet.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "quantfleet.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "quantfleet.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "quantfleet.containerSecurityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Pod fields that head, workers and submitter share. */}}
{{- define "quantfleet.podSpec" -}}
serviceAccountName: {{ include "quantfleet.serviceAccountName" . | quote }}
# A Service called quantfleet-* would otherwise turn into QUANTFLEET_* variables, which are settings.
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .Values.podSecurity.runAsUser | int64 }}
  runAsGroup: {{ .Values.podSecurity.runAsGroup | int64 }}
  fsGroup: {{ .Values.podSecurity.fsGroup | int64 }}
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{/* Environment of the Ray containers. Secrets come by reference only. */}}
{{- define "quantfleet.env" -}}
{{- $env := dict "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S" "0.02" "QUANTFLEET_STORAGE__ROOT" .Values.storage.root -}}
{{- $_ := set $env "QUANTFLEET_STORAGE__REGION" .Values.storage.region -}}
{{- with .Values.storage.endpointUrl -}}
{{- $_ := set $env "QUANTFLEET_STORAGE__ENDPOINT_URL" . -}}
{{- /* S3 servers other than Amazon's refuse the checksums that newer clients send by default. */ -}}
{{- $_ := set $env "AWS_REQUEST_CHECKSUM_CALCULATION" "when_required" -}}
{{- end -}}
{{- with .Values.registry.trackingUri -}}
{{- $_ := set $env "QUANTFLEET_REGISTRY__TRACKING_URI" . -}}
{{- end -}}
{{- $fromSecret := dict -}}
{{- with .Values.storage.credentialsSecret -}}
{{- if .name -}}
{{- $_ := set $fromSecret "AWS_ACCESS_KEY_ID" (dict "name" .name "key" .accessKeyIdKey) -}}
{{- $_ := set $fromSecret "AWS_SECRET_ACCESS_KEY" (dict "name" .name "key" .secretAccessKeyKey) -}}
{{- end -}}
{{- end -}}
{{- with .Values.registry.credentialsSecret -}}
{{- if .name -}}
{{- $_ := set $fromSecret "MLFLOW_TRACKING_USERNAME" (dict "name" .name "key" .usernameKey) -}}
{{- $_ := set $fromSecret "MLFLOW_TRACKING_PASSWORD" (dict "name" .name "key" .passwordKey) -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := .Values.extraEnv -}}
{{- if hasKey $env $name -}}
{{- fail (printf "extraEnv.%s is set by the chart already. Use storage.* or registry.* for it." $name) -}}
{{- end -}}
{{- $_ := set $env $name $value -}}
{{- end -}}
{{- range $name, $value := $env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- range $name, $ref := $fromSecret }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $ref.name | quote }}
      key: {{ $ref.key | quote }}
{{- end }}
{{- end -}}

{{/* One Ray container. Takes a dict: root, name, resources. */}}
{{- define "quantfleet.rayContainer" -}}
name: {{ .name }}
image: {{ include "quantfleet.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- include "quantfleet.containerSecurityContext" .root | nindent 2 }}
env:
  {{- include "quantfleet.env" .root | trim | nindent 2 }}
{{- with .root.Values.envFromSecrets }}
envFrom:
  {{- range . }}
  - secretRef:
      name: {{ . | quote }}
  {{- end }}
{{- end }}
resources:
  {{- toYaml .resources | nindent 2 }}
{{- end -}}

{{/* What the schema cannot say: values that must fit each other, and addresses whose text must not be printed. */}}
{{- define "quantfleet.validate" -}}
{{- $texts := dict "storage.endpointUrl" .Values.storage.endpointUrl "registry.trackingUri" .Values.registry.trackingUri -}}
{{- range $name, $value := .Values.extraEnv -}}
{{- $_ := set $texts (printf "extraEnv.%s" $name) $value -}}
{{- end -}}
{{- range $key, $text := $texts -}}
{{- if regexMatch "://[^/]*@" $text -}}
{{- fail (printf "%s holds a user or password, and Helm keeps values as plain text. Put the address in a Secret and name that in envFromSecrets." $key) -}}
{{- end -}}
{{- if and (not (hasPrefix "extraEnv." $key)) (not (regexMatch "^(https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?)?$" $text)) -}}
{{- fail (printf "%s=%q is not an address of the form http(s)://host[:port][/path]." $key $text) -}}
{{- end -}}
{{- end -}}
{{- $seen := dict -}}
{{- $workers := 0 -}}
{{- range $i, $group := .Values.cluster.workerGroups -}}
{{- $at := printf "cluster.workerGroups[%d] (%s)" $i $group.name -}}
{{- if hasKey $seen $group.name -}}
{{- fail (printf "%s: another group has this name already. Give every group its own." $at) -}}
{{- end -}}
{{- $_ := set $seen $group.name true -}}
{{- $workers = add $workers $group.maxReplicas -}}
{{- if gt (int $group.minReplicas) (int $group.maxReplicas) -}}
{{- fail (printf "%s: minReplicas=%d is larger than maxReplicas=%d. Set minReplicas <= maxReplicas." $at (int $group.minReplicas) (int $group.maxReplicas)) -}}
{{- end -}}
{{- if or (lt (int $group.replicas) (int $group.minReplicas)) (gt (int $group.replicas) (int $group.maxReplicas)) -}}
{{- fail (printf "%s: replicas=%d is outside minReplicas=%d to maxReplicas=%d. Set minReplicas <= replicas <= maxReplicas." $at (int $group.replicas) (int $group.minReplicas) (int $group.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if and (eq (int .Values.cluster.head.numCpus) 0) (eq (int $workers) 0) -}}
{{- fail "cluster.head.numCpus=0 and no worker in cluster.workerGroups: no node would run any work. Raise one of the two." -}}
{{- end -}}
{{- if eq .Values.ray.auth.mode "token" -}}
{{- if semverCompare "<2.52.0" .Values.ray.version -}}
{{- fail (printf "ray.version=%s knows no token authentication. Use Ray 2.52.0 or newer." .Values.ray.version) -}}
{{- end -}}
{{- else if not .Values.networkPolicy.enabled -}}
{{- fail "ray.auth.mode=disabled together with networkPolicy.enabled=false lets every pod of the Kubernetes cluster run code in Ray. Keep one of the two on." -}}
{{- end -}}
{{- end -}}

{{/*
The Ray cluster, for RayCluster.spec and RayJob.spec.rayClusterSpec alike. Takes a dict: root, and recipeConfigMap
(empty: none), which is mounted in the head, where a job's driver runs.
*/}}
{{- define "quantfleet.rayClusterSpec" -}}
{{- include "quantfleet.validate" .root -}}
{{- $root := .root -}}
{{- $cluster := $root.Values.cluster -}}
rayVersion: {{ $root.Values.ray.version | quote }}
authOptions:
  mode: {{ $root.Values.ray.auth.mode }}
  {{- with $root.Values.ray.auth.secretName }}
  secretName: {{ . | quote }}
  {{- end }}
enableInTreeAutoscaling: {{ $cluster.autoscaling.enabled }}
{{- if $cluster.autoscaling.enabled }}
autoscalerOptions:
  version: v2
  idleTimeoutSeconds: {{ $cluster.autoscaling.idleTimeoutSeconds | int }}
  securityContext:
    {{- include "quantfleet.containerSecurityContext" $root | nindent 4 }}
  resources:
    {{- toYaml $cluster.autoscaling.resources | nindent 4 }}
{{- end }}
headGroupSpec:
  rayStartParams:
    dashboard-host: 0.0.0.0
    num-cpus: {{ $cluster.head.numCpus | int | quote }}
  template:
    metadata:
      labels:
        {{- include "quantfleet.selectorLabels" $root | nindent 8 }}
        app.kubernetes.io/component: ray-head
    spec:
      {{- include "quantfleet.podSpec" $root | nindent 6 }}
      # The autoscaler talks to the Kubernetes API; nothing else here does.
      automountServiceAccountToken: {{ $cluster.autoscaling.enabled }}
      {{- with $cluster.head.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $cluster.head.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - {{ include "quantfleet.rayContainer" (dict "root" $root "name" "ray-head" "resources" $cluster.head.resources) | indent 10 | trim }}
          ports:
            - {name: gcs-server, containerPort: 6379}
            - {name: dashboard, containerPort: 8265}
            - {name: client, containerPort: 10001}
            - {name: metrics, containerPort: 8080}
          {{- if .recipeConfigMap }}
          volumeMounts:
            - {name: recipe, mountPath: /etc/quantfleet/recipes, readOnly: true}
          {{- end }}
      {{- with .recipeConfigMap }}
      volumes:
        - name: recipe
          configMap:
            name: {{ . | quote }}
      {{- end }}
{{- if $cluster.workerGroups }}
workerGroupSpecs:
  {{- range $group := $cluster.workerGroups }}
  - groupName: {{ $group.name | quote }}
    replicas: {{ $group.replicas | int }}
    minReplicas: {{ $group.minReplicas | int }}
    maxReplicas: {{ $group.maxReplicas | int }}
    rayStartParams: {}
    template:
      metadata:
        labels:
          {{- include "quantfleet.selectorLabels" $root | nindent 10 }}
          app.kubernetes.io/component: ray-worker
      spec:
        {{- include "quantfleet.podSpec" $root | nindent 8 }}
        automountServiceAccountToken: false
        {{- with $group.nodeSelector }}
        nodeSelector:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- with $group.tolerations }}
        tolerations:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        containers:
          - {{ include "quantfleet.rayContainer" (dict "root" $root "name" "ray-worker" "resources" $group.resources) | indent 12 | trim }}
            ports:
              - {name: metrics, containerPort: 8080}
  {{- end }}
{{- end }}
{{- end -}}
