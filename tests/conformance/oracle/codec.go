package main

import (
	"net/netip"

	"github.com/cilium/cilium/pkg/hubble/parser"
	"github.com/cilium/cilium/pkg/hubble/parser/options"
	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/labels"
	"github.com/cilium/cilium/pkg/monitor"
	"github.com/cilium/cilium/pkg/monitor/api"
	"github.com/cilium/cilium/pkg/policy"
	"github.com/cilium/cilium/pkg/policy/trafficdirection"
	policyTypes "github.com/cilium/cilium/pkg/policy/types"
	"github.com/cilium/cilium/pkg/types"
	"github.com/cilium/cilium/pkg/u8proto"
)

// Headers and policy maps as 1.19 lays them out.

const (
	maxDropVersion  = monitor.DropNotifyVersion3
	maxTraceVersion = monitor.TraceNotifyVersion2
	hasTunnelFlags  = true
)

type (
	policyKey   = policyTypes.Key
	policyEntry = policyTypes.PolicyCorrelationInfo
)

func policyMapEntry(p PolicyRec) (policyKey, policyEntry) {
	dir := trafficdirection.Ingress
	if p.Direction == "egress" {
		dir = trafficdirection.Egress
	}
	key := policy.KeyForDirection(dir).WithIdentity(identity.NumericIdentity(p.Identity))
	switch {
	case p.Port != 0:
		key = key.WithPortProto(u8proto.U8proto(p.Proto), p.Port)
	case p.Proto != 0:
		key = key.WithProto(u8proto.U8proto(p.Proto))
	}
	return key, policyEntry{RuleLabels: ruleLabels(p.Rules).ArrayListString(), Log: p.Log, Revision: p.Revision}
}

func newParser(l *lookup) (*parser.Parser, error) {
	opts := append([]options.Option{options.WithSkipUnknownCGroupIDs(true), options.CacheSize(10000)}, l.options...)
	return parser.New(quiet, l, l, l, l, l, l, l, opts...)
}

func dropHeader(f dropFields) []byte {
	n := monitor.DropNotify{
		Type: 1, SubType: f.reason, Source: f.source, Hash: f.hash, OrigLen: f.origLen, CapLen: f.capLen,
		Version: f.version, ExtVersion: f.extVersion, SrcLabel: identity.NumericIdentity(f.src), DstLabel: identity.NumericIdentity(f.dst),
		DstID: f.dstID, Line: f.line, File: f.file, ExtError: f.extError, Ifindex: f.ifindex, Flags: f.flags, IPTraceID: f.ipTraceID,
	}
	return packed(n)[:n.DataOffset()]
}

func traceHeader(f traceFields) []byte {
	n := monitor.TraceNotify{
		Type: 4, ObsPoint: f.point, Source: f.source, Hash: f.hash, OrigLen: f.origLen, CapLen: f.capLen,
		Version: f.version, ExtVersion: f.extVersion, SrcLabel: identity.NumericIdentity(f.src), DstLabel: identity.NumericIdentity(f.dst),
		DstID: f.dstID, Reason: f.reason, Flags: f.flags, Ifindex: f.ifindex, OrigIP: types.IPv6(f.origIP), IPTraceID: f.ipTraceID,
	}
	return packed(n)[:n.DataOffset()]
}

func verdictHeader(f verdictFields) []byte {
	return packed(monitor.PolicyVerdictNotify{
		Type: 5, SubType: f.subType, Source: f.source, Hash: f.hash, OrigLen: f.origLen, CapLen: f.capLen, Version: 1, ExtVersion: f.extVersion,
		RemoteLabel: identity.NumericIdentity(f.remote), Verdict: f.verdict, DstPort: f.dstPort, Proto: f.proto, Flags: f.flags,
		AuthType: f.auth, Cookie: f.cookie,
	})
}

func captureHeader(f captureFields) []byte {
	return packed(monitor.DebugCapture{
		Type: 3, SubType: f.point, Source: f.source, Hash: f.hash, OrigLen: f.origLen, Len: f.capLen, Version: 1, Arg1: f.arg1, Arg2: f.arg2,
	})
}

func debugRecord(f debugFields) []byte {
	return packed(monitor.DebugMsg{Type: 2, SubType: f.id, Source: f.source, Hash: f.hash, Arg1: f.args[0], Arg2: f.args[1], Arg3: f.args[2]})
}

func sockRecord(f sockFields) []byte {
	return packed(monitor.TraceSockNotify{
		Type: 7, XlatePoint: f.point, DstIP: types.IPv6(f.dst), DstPort: f.dstPort, SockCookie: f.cookie, CgroupId: f.cgroup, L4Proto: f.proto, Flags: f.flags,
	})
}

func ruleLabels(rules [][]string) (list labels.LabelArrayList) {
	for _, r := range rules {
		list = append(list, labels.ParseLabelArrayFromArray(r))
	}
	return list
}

// dnsIPs gives the addresses in the type DNS records use in this release.
func dnsIPs(addrs ...netip.Addr) []netip.Addr { return addrs }

// agentMessagesExtra are notifications this release has beyond the common ones.
func agentMessagesExtra(*l7Gen) []api.AgentNotifyMessage { return nil }

func decodeNotification(n api.AgentNotify) (any, bool) { return nil, false }
