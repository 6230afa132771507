package main

import (
	hubblev1 "github.com/cilium/cilium/pkg/hubble/api/v1"
	"github.com/cilium/cilium/pkg/hubble/build"
	"github.com/cilium/cilium/pkg/hubble/parser/options"
	policyTypes "github.com/cilium/cilium/pkg/policy/types"
)

func init() {
	// What the release's link flags set in a real agent.
	build.ServerVersion.Core, build.ServerVersion.Revision = "1.19.4", "95e477fd"
	hubblev1.FlowEmitterVersion = build.ServerVersion.SemVer()
}

const release = "1.19"

// withRedact has an argument for Kafka until 1.19.
func withRedact(r redaction) options.Option {
	return options.WithRedact(r.Query, r.UserInfo, r.Kafka, r.Allow, r.Deny)
}

// policyLookup is what an endpoint needs beyond its map of exact keys.
type policyLookup struct{}

func (e *endpoint) GetPolicyCorrelationInfoForKey(key policyTypes.Key) (policyTypes.PolicyCorrelationInfo, bool) {
	v, ok := e.policy[key]
	return v, ok
}

func requestsExtra(func(name, json string)) {}
