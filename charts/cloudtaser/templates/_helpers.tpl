{{/* Names are fixed: who the operator is to the bridge depends on them (docs/operator.md). */}}

{{- define "cloudtaser.namespace" -}}
{{- .Values.namespace | default .Release.Namespace -}}
{{- end -}}

{{- define "cloudtaser.labels" -}}
app.kubernetes.io/name: cloudtaser
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "cloudtaser.operator.selector" -}}
app.kubernetes.io/name: cloudtaser
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "cloudtaser.metadata" -}}
name: {{ .name }}
namespace: {{ include "cloudtaser.namespace" .root }}
labels:
  {{- include "cloudtaser.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component | default "operator" }}
{{- end -}}

{{/* registry/repository:tag or @digest; global.registry takes the place of the first part. */}}
{{- define "cloudtaser.image" -}}
{{- $repository := .image.repository -}}
{{- with .root.Values.global.registry -}}
{{- $parts := splitList "/" $repository -}}
{{- if and (gt (len $parts) 1) (or (contains "." (first $parts)) (contains ":" (first $parts)) (eq (first $parts) "localhost")) -}}
{{- $repository = join "/" (rest $parts) -}}
{{- end -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $repository -}}
{{- end -}}
{{- if .image.digest -}}
{{ $repository }}@{{ .image.digest }}
{{- else -}}
{{ $repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "cloudtaser.pullSecrets" -}}
{{- range .Values.imagePullSecrets }}
- name: {{ if kindIs "string" . }}{{ . }}{{ else }}{{ .name }}{{ end }}
{{- end }}
{{- end -}}

{{- define "cloudtaser.beacon" -}}
{{- $old := ternary .Values.operator.broker.beacon.address "" (or .Values.operator.broker.beacon.enabled (ne .Values.operator.broker.beacon.address "")) -}}
{{- $new := .Values.operator.beacon.address -}}
{{- if and $old $new (ne $old $new) -}}
{{- fail (printf "operator.beacon.address is %s and operator.broker.beacon.address is %s: set one of them" $new $old) -}}
{{- end -}}
{{- if and .Values.operator.broker.beacon.enabled (not (or $old $new)) -}}
{{- fail "operator.broker.beacon.enabled is set without operator.broker.beacon.address" -}}
{{- end -}}
{{- $new | default $old -}}
{{- end -}}

{{- define "cloudtaser.secretstore" -}}
{{- $new := .Values.operator.secretstore.address -}}
{{- $old := .Values.operator.vaultAddress -}}
{{- if and $old $new (ne $old $new) -}}
{{- fail (printf "operator.secretstore.address is %s and operator.vaultAddress, its old name, is %s: set one of them" $new $old) -}}
{{- end -}}
{{- $new | default $old -}}
{{- end -}}

{{/* beacon, reverse or direct. */}}
{{- define "cloudtaser.mode" -}}
{{- $beacon := include "cloudtaser.beacon" . -}}
{{- if and $beacon .Values.broker.enabled -}}
{{- fail "operator.beacon.address and broker.enabled are two ways to the bridge: set one of them" -}}
{{- end -}}
{{- if $beacon -}}beacon
{{- else if .Values.broker.enabled -}}reverse
{{- else if include "cloudtaser.secretstore" . -}}direct
{{- else -}}
{{- fail "no way to the secrets: set operator.beacon.address=HOST:443, or broker.enabled=true so that bridges dial this cluster, or operator.secretstore.address=https://... where pods reach OpenBao by themselves" -}}
{{- end -}}
{{- end -}}

{{- define "cloudtaser.vaultAddress" -}}
{{- include "cloudtaser.secretstore" . | default (printf "broker://cloudtaser-broker.%s.svc:8443" (include "cloudtaser.namespace" .)) -}}
{{- end -}}

{{- define "cloudtaser.replicas" -}}
{{- if kindIs "invalid" .Values.operator.replicaCount -}}
{{- ternary 3 1 .Values.operator.ha -}}
{{- else -}}
{{- .Values.operator.replicaCount -}}
{{- end -}}
{{- end -}}

{{- define "cloudtaser.failurePolicy" -}}
{{- .Values.operator.webhook.failurePolicy | default (ternary "Fail" "Ignore" .Values.operator.ha) -}}
{{- end -}}

{{/* What holds for every container of ours. */}}
{{- define "cloudtaser.hardening" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* The webhook's settings, as `cloudtaser-operator manager --settings` reads them. */}}
{{- define "cloudtaser.settings" -}}
{{- $v := .Values -}}
{{- $namespace := include "cloudtaser.namespace" . -}}
{{- $settings := dict
    "wrapper_image" (include "cloudtaser.image" (dict "root" . "image" $v.wrapper.image))
    "wrapper_pull_policy" $v.wrapper.image.pullPolicy
    "vault_address" (include "cloudtaser.vaultAddress" .)
    "operator_address" (printf "cloudtaser-operator.%s.svc:8446" $namespace)
    "allowed_addresses" $v.operator.webhook.allowedAddresses
    "allow_skip_verify" $v.operator.webhook.allowSkipVerify
    "s3proxy_image" $v.s3proxy.image
    "failure_policy" (include "cloudtaser.failurePolicy" .) -}}
{{- with $v.wrapper.resources }}{{ $_ := set $settings "wrapper_resources" . }}{{ end -}}
{{- range $name, $value := dict "vault_role" $v.operator.secretstore.role "vault_auth_mount" $v.operator.secretstore.authMount "vault_namespace" $v.operator.secretstore.namespace "vault_ca" $v.operator.secretstore.caBundle "vault_auth_method" $v.wrapper.authMethod "accepted_wrapper_images" $v.wrapper.acceptedImages "image_volumes" $v.wrapper.imageVolumes "rotation" $v.wrapper.rotation "rotation_grace" $v.wrapper.rotationGrace "rotation_debounce" $v.wrapper.rotationDebounce "poll_interval" $v.wrapper.pollInterval "delivery" $v.wrapper.delivery "ebpf" $v.wrapper.ebpf -}}
{{- if $value }}{{ $_ := set $settings $name $value }}{{ end -}}
{{- end -}}
{{- $settings | toPrettyJson -}}
{{- end -}}

{{/* What `cloudtaser-operator manager --registries` reads (docs/registry.md). */}}
{{- define "cloudtaser.registries" -}}
{{- $registries := omit .Values.operator.registry "dockerConfigSecret" -}}
{{- if .Values.operator.registry.dockerConfigSecret -}}
{{- $_ := set $registries "dockerConfigFile" "/etc/cloudtaser-registry/config.json" -}}
{{- end -}}
{{- $registries | toPrettyJson -}}
{{- end -}}
