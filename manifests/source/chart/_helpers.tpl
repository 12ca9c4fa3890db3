{{/* The image, by digest if one is given. */}}
{{- define "ocicat.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .registry }}/{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .registry }}/{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The API group of Calico's resources. */}}
{{- define "ocicat.apiVersion" -}}
{{- if .Values.nativeCRDs -}}projectcalico.org/v3{{- else -}}crd.projectcalico.org/v1{{- end -}}
{{- end -}}
