// Rules, resolved by Cilium 1.19.4's own policy package: what its agent answers to GET /v1/endpoint and
// GET /v1/policy/selectors of them, and the policy map that it would realise. Made by
// `go run . >v1.19.json` with a go.mod that requires that release.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/cilium/cilium/pkg/endpoint/regeneration"
	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/identity/identitymanager"
	"github.com/cilium/cilium/pkg/labels"
	"github.com/cilium/cilium/pkg/policy"
	"github.com/cilium/cilium/pkg/policy/api"
	"github.com/cilium/cilium/pkg/policy/types"
	"github.com/cilium/cilium/pkg/spanstat"
	"github.com/cilium/cilium/pkg/u8proto"
)

type owner struct{}

func (owner) GetID() uint64                                     { return 42 }
func (owner) GetNamedPort(bool, string, u8proto.U8proto) uint16 { return 0 }
func (owner) PolicyDebug(string, ...any)                        {}
func (owner) IsHost() bool                                      { return false }
func (owner) PreviousMapState() *policy.MapState                { return nil }
func (owner) RegenerateIfAlive(*regeneration.ExternalRegenerationMetadata) <-chan bool {
	return nil
}

type stats struct{ a, b spanstat.SpanStat }

func (s *stats) WaitingForPolicyRepository() *spanstat.SpanStat { return &s.a }
func (s *stats) SelectorPolicyCalculation() *spanstat.SpanStat  { return &s.b }

type metrics struct{}

func (metrics) AddRule(types.PolicyEntry) {}
func (metrics) DelRule(types.PolicyEntry) {}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func rule(name, text string) *api.Rule {
	var r api.Rule
	must(json.Unmarshal([]byte(text), &r))
	r.Labels = labels.ParseLabelArray(
		"k8s:io.cilium.k8s.policy.derived-from=CiliumNetworkPolicy",
		"k8s:io.cilium.k8s.policy.name="+name,
		"k8s:io.cilium.k8s.policy.namespace=shop",
		"k8s:io.cilium.k8s.policy.uid=1b0c7a5e-"+name)
	must(r.Sanitize())
	return &r
}

const subject = `{"endpointSelector":{"matchLabels":{"k8s:app":"backend"}},`

func main() {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	ids := identity.IdentityMap{}
	add := func(n identity.NumericIdentity, texts ...string) {
		ids[n] = labels.ParseLabelArray(texts...)
	}
	add(1001, "k8s:app=backend")
	add(1002, "k8s:app=frontend")
	add(1003, "k8s:app=bad")
	add(1004, "k8s:app=dns")
	add(1005, "k8s:app=db")
	add(1006, "k8s:app=cache")
	add(1007, "k8s:app=frontend", "k8s:canary=true")
	add(2, "reserved:world")
	add(16777217, "cidr:203.0.113.0/24", "reserved:world")
	idmgr := identitymanager.NewIDManager(log)
	repo := policy.NewPolicyRepository(log, ids, nil, nil, idmgr, metrics{})
	repo.MustAddList(api.Rules{
		rule("allow-frontend", subject+`"ingress":[{"fromEndpoints":[{"matchLabels":{"k8s:app":"frontend"}}],"toPorts":[{"ports":[{"port":"80","protocol":"TCP"}]}]}]}`),
		rule("allow-canary", subject+`"ingress":[{"fromEndpoints":[{"matchLabels":{"k8s:canary":"true"}}],"toPorts":[{"ports":[{"port":"80","protocol":"TCP"}]}]}]}`),
		rule("allow-scrape", subject+`"ingress":[{"fromEntities":["all"],"toPorts":[{"ports":[{"port":"9090","protocol":"TCP"}]}]}]}`),
		rule("deny-bad", subject+`"ingressDeny":[{"fromEndpoints":[{"matchLabels":{"k8s:app":"bad"}}]}]}`),
		rule("allow-range", subject+`"ingress":[{"fromEndpoints":[{"matchLabels":{"k8s:app":"frontend"}}],"toPorts":[{"ports":[{"port":"1024","endPort":1535,"protocol":"TCP"}]}]}]}`),
		rule("to-dns", subject+`"egress":[{"toEndpoints":[{"matchLabels":{"k8s:app":"dns"}}],"toPorts":[{"ports":[{"port":"53","protocol":"ANY"}]}]}]}`),
		rule("to-db", subject+`"egress":[{"toEndpoints":[{"matchLabels":{"k8s:app":"db"}}],"toPorts":[{"ports":[{"port":"5432","protocol":"TCP"}]}]}]}`),
		rule("to-cache", subject+`"egress":[{"toEndpoints":[{"matchLabels":{"k8s:app":"cache"}}],"toPorts":[{"ports":[{"port":"5432","protocol":"TCP"}]}]}]}`),
		rule("to-outside", subject+`"egress":[{"toCIDR":["203.0.113.0/24"]}]}`),
		rule("to-ping", subject+`"egress":[{"toEndpoints":[{"matchLabels":{"k8s:app":"db"}}],"icmps":[{"fields":[{"type":8,"family":"IPv4"}]}]}]}`),
	})
	id := identity.NewIdentityFromLabelArray(1001, ids[1001])
	idmgr.Add(id)
	sp, _, err := repo.GetSelectorPolicy(id, 0, &stats{}, 42)
	must(err)
	ep := sp.DistillPolicy(log, owner{}, map[string]uint16{})
	must(ep.Ready())
	var entries []any
	for key, e := range ep.Entries() {
		meta, err := ep.GetRuleMeta(key)
		must(err)
		rules := [][]string{}
		for _, l := range meta.LabelArray() {
			rules = append(rules, l.GetModel())
		}
		dir := "egress"
		if key.TrafficDirection() == 0 {
			dir = "ingress"
		}
		entries = append(entries, map[string]any{"direction": dir, "identity": key.Identity, "protocol": key.Nexthdr,
			"port": key.DestPort, "port-prefix": key.PortPrefixLen(), "deny": e.IsDeny(), "rules": rules})
	}
	out := map[string]any{
		"endpoint": []any{map[string]any{"id": 42, "status": map[string]any{"policy": map[string]any{
			"realized": map[string]any{"policy-revision": repo.GetRevision(), "l4": ep.SelectorPolicy.L4Policy.GetModel()}}}}},
		"selectors": repo.GetSelectorCache().GetModel(),
		"entries":   entries,
	}
	b, err := json.MarshalIndent(out, "", " ")
	must(err)
	fmt.Fprintln(os.Stdout, string(b))
}
