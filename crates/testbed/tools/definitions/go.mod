// CustomResourceDefinitions of others, as files in their modules: nothing is built.
module drop.test/definitions

go 1.26.0

require (
	github.com/argoproj/argo-cd/v3 v3.1.0
	github.com/fluxcd/kustomize-controller v1.6.0
	github.com/fluxcd/source-controller v1.7.0
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
