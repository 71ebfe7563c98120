{{/*
Labels of everything that the chart makes.
*/}}
{{- define "pyramid.labels" -}}
app.kubernetes.io/part-of: pyramid
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/*
Labels by which the operator's Pods are found. They can never change.
*/}}
{{- define "pyramid.operatorSelector" -}}
app.kubernetes.io/name: pyramid-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/*
Name of an image: a dictionary with "image" and "version".
*/}}
{{- define "pyramid.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .version }}
{{- end }}
{{- end }}

{{/*
Names of a list of references, as a JSON list.
*/}}
{{- define "pyramid.secretNames" -}}
{{- $names := list }}
{{- range . }}
{{- $names = append $names .name }}
{{- end }}
{{- $names | toJson }}
{{- end }}

{{/*
Namespaces in which Writers may run, as a JSON list; "*" alone if it is one of them.
*/}}
{{- define "pyramid.writerNamespaces" -}}
{{- if has "*" .Values.writerNamespaces -}}
{{ list "*" | toJson }}
{{- else -}}
{{ prepend .Values.writerNamespaces .Release.Namespace | uniq | toJson }}
{{- end }}
{{- end }}

{{/*
Which namespaces get pushers: for the webhook and the policy behind it.
*/}}
{{- define "pyramid.injectedNamespaces" -}}
matchExpressions:
  - key: pyramid.dev/injection
    operator: NotIn
    values: ["disabled"]
  - key: kubernetes.io/metadata.name
    operator: NotIn
    values: {{ concat (list "kube-system" "kube-node-lease" .Release.Namespace) .Values.injector.excludedNamespaces | uniq | toJson }}
{{- end }}

{{/*
Which Pods ask for a pusher: for the webhook and the policy behind it.
*/}}
{{- define "pyramid.injectedPods" -}}
- name: asks-for-pyramid
  expression: >-
    has(object.metadata.annotations) &&
    ('pyramid.dev/subscriptions' in object.metadata.annotations ||
    'pyramid.dev/append' in object.metadata.annotations)
- name: not-opted-out
  expression: >-
    !has(object.metadata.annotations) ||
    !('pyramid.dev/inject' in object.metadata.annotations) ||
    object.metadata.annotations['pyramid.dev/inject'] != 'false'
{{- end }}

{{/*
The operator's settings. The program refuses a field that it does not know.
*/}}
{{- define "pyramid.settings" -}}
{{- if .Values.pki.trustDomain }}
trustDomain: {{ .Values.pki.trustDomain | quote }}
{{- end }}
clusterDomain: {{ .Values.clusterDomain | quote }}
writerImage: {{ include "pyramid.image" (dict "image" .Values.writer.image "version" .Chart.AppVersion) | quote }}
writerPullPolicy: {{ .Values.writer.image.pullPolicy }}
imagePullSecrets: {{ include "pyramid.secretNames" .Values.imagePullSecrets }}
writerNamespaces: {{ include "pyramid.writerNamespaces" . }}
defaultWriter:
  create: {{ .Values.defaultWriter.create }}
  {{- with .Values.defaultWriter.spec }}
  spec:
    {{- if not (hasKey . "allowedStreams") }}
    allowedStreams:
      from: All
    {{- end }}
    {{- toYaml . | nindent 4 }}
  {{- end }}
pusher:
  image: {{ include "pyramid.image" (dict "image" .Values.pusher.image "version" .Chart.AppVersion) | quote }}
  pullPolicy: {{ .Values.pusher.image.pullPolicy }}
  logLevel: {{ .Values.pusher.logLevel | quote }}
  resources:
    {{- toYaml .Values.pusher.resources | nindent 4 }}
  imagePullSecrets: {{ include "pyramid.secretNames" .Values.pusher.imagePullSecrets }}
pki:
  rootLifeSeconds: {{ int64 .Values.pki.rootLifeSeconds }}
  writerLifeSeconds: {{ int64 .Values.pki.writerLifeSeconds }}
  operatorLifeSeconds: {{ int64 .Values.pki.operatorLifeSeconds }}
  podLifeSeconds: {{ int64 .Values.pki.podLifeSeconds }}
  unboundLifeSeconds: {{ int64 .Values.pki.unboundLifeSeconds }}
waits:
  {{- range $name, $seconds := .Values.waits }}
  {{ $name }}: {{ int64 $seconds }}
  {{- end }}
{{- end }}
