// Command health prints how Argo CD and Flux see objects. Its arguments are the files with a
// ConfigMap argocd-cm and with a Flux Kustomization. It reads objects as JSON from its standard
// input, one after the other, and prints a line of JSON for each.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

type verdict struct {
	Name string `json:"name"`
	// What kstatus finds, which Flux asks where a Kustomization has no expression.
	Kstatus string `json:"kstatus"`
	// What the Kustomization's expressions say.
	Flux string `json:"flux"`
	// What the health check in argocd-cm says.
	Argo    string `json:"argo"`
	Message string `json:"message"`
}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(argocd, flux string, in io.Reader, out io.Writer) error {
	script, err := readScript(argocd)
	if err != nil {
		return err
	}
	expressions, err := readExpressions(flux)
	if err != nil {
		return err
	}
	objects, verdicts := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var raw json.RawMessage
		switch err := objects.Decode(&raw); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(raw); err != nil {
			return err
		}
		v := verdict{Name: object.GetName()}
		result, err := status.Compute(object)
		if err != nil {
			return err
		}
		v.Kstatus = result.Status.String()
		if v.Flux, err = evaluate(expressions[object.GetKind()], object); err != nil {
			return err
		}
		if v.Argo, v.Message, err = health(script, object.Object); err != nil {
			return err
		}
		if err := verdicts.Encode(v); err != nil {
			return err
		}
	}
}

func read(path string, into any) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return yaml.Unmarshal(content, into)
}

// readScript reads the health check of all Drop's kinds.
func readScript(path string) (string, error) {
	var configMap struct {
		Data map[string]string `json:"data"`
	}
	if err := read(path, &configMap); err != nil {
		return "", err
	}
	var customizations map[string]struct {
		Health string `json:"health.lua"`
	}
	err := yaml.Unmarshal([]byte(configMap.Data["resource.customizations"]), &customizations)
	return customizations["drop.corewire.io/*"].Health, err
}

// readExpressions reads the expressions of a Kustomization, by kind.
func readExpressions(path string) (map[string]*cel.StatusEvaluator, error) {
	var kustomization struct {
		Spec struct {
			HealthCheckExprs []kustomize.CustomHealthCheck `json:"healthCheckExprs"`
		} `json:"spec"`
	}
	if err := read(path, &kustomization); err != nil {
		return nil, err
	}
	evaluators := map[string]*cel.StatusEvaluator{}
	for _, check := range kustomization.Spec.HealthCheckExprs {
		evaluator, err := cel.NewStatusEvaluator(&check.HealthCheckExpressions)
		if err != nil {
			return nil, err
		}
		evaluators[check.Kind] = evaluator
	}
	return evaluators, nil
}

func evaluate(evaluator *cel.StatusEvaluator, object *unstructured.Unstructured) (string, error) {
	if evaluator == nil {
		return "", nil
	}
	if _, ok := object.Object["status"]; !ok {
		// The expression fails, and Flux asks again later.
		return status.InProgressStatus.String(), nil
	}
	result, err := evaluator.Evaluate(context.Background(), object)
	if err != nil {
		return "", err
	}
	return result.Status.String(), nil
}

// health runs a script as Argo CD does: the object is the global obj, and the script returns a table
// with status and message. Argo CD opens no libraries but these unless told to.
func health(script string, object map[string]any) (string, string, error) {
	l := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer l.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.BaseLibName:   lua.OpenBase,
		lua.TabLibName:    lua.OpenTable,
		lua.StringLibName: lua.OpenString,
	} {
		l.Push(l.NewFunction(open))
		l.Push(lua.LString(name))
		l.Call(1, 0)
	}
	l.SetGlobal("obj", value(l, object))
	if err := l.DoString(script); err != nil {
		return "", "", err
	}
	table, ok := l.Get(-1).(*lua.LTable)
	if !ok {
		return "", "", errors.New("the health check returns no table")
	}
	return table.RawGetString("status").String(), table.RawGetString("message").String(), nil
}

// value turns JSON into what Lua knows.
func value(l *lua.LState, json any) lua.LValue {
	switch json := json.(type) {
	case bool:
		return lua.LBool(json)
	case int64:
		return lua.LNumber(json)
	case float64:
		return lua.LNumber(json)
	case string:
		return lua.LString(json)
	case []any:
		table := l.NewTable()
		for _, item := range json {
			table.Append(value(l, item))
		}
		return table
	case map[string]any:
		table := l.NewTable()
		for key, item := range json {
			table.RawSetString(key, value(l, item))
		}
		return table
	}
	return lua.LNil
}
