package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"github.com/cilium/cilium/pkg/hubble/metrics"
	"github.com/cilium/cilium/pkg/hubble/server/serveroption"
	"github.com/cilium/cilium/pkg/monitor/payload"
)

func init() {
	commands["expect"] = command{"write Hubble's answers to a list of API requests", runExpect}
	commands["metrics"] = command{"write Hubble's /metrics text for a list of configurations", runMetrics}
}

// answer is one line of an expectation file. Results are payload indexes; a
// lost event that Hubble's ring itself reports is written as {"ring_lost": n}.
type answer struct {
	Name      string            `json:"name"`
	Method    string            `json:"method"`
	MaxFlows  int               `json:"max_flows"`
	Request   json.RawMessage   `json:"request"`
	Code      string            `json:"code,omitempty"` // gRPC status if not OK
	Message   string            `json:"message,omitempty"`
	Result    []any             `json:"result"`
	Responses []json.RawMessage `json:"responses,omitempty"` // in full where there are few
}

type request struct{ name, method, json string }

func runExpect(args []string) error {
	fs := flag.NewFlagSet("expect", flag.ExitOnError)
	stream := fs.String("stream", "", "stream file")
	world := fs.String("world", "", "world.json")
	out := fs.String("out", "", "JSON lines to write")
	fs.Parse(args)
	w, err := loadWorld(*world)
	if err != nil {
		return err
	}
	payloads, err := readStream(*stream)
	if err != nil {
		return err
	}
	f, err := os.Create(*out)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := bufio.NewWriter(f)
	total := 0
	for _, size := range []int{65535, 255} {
		list := requests(w, len(payloads))
		if size == 255 {
			list = smallRingRequests(w, len(payloads))
		}
		n, err := answers(w, payloads, size, list, buf)
		if err != nil {
			return err
		}
		total += n
	}
	fmt.Fprintln(os.Stderr, total, "requests answered")
	return buf.Flush()
}

func answers(w *World, payloads []*payload.Payload, size int, list []request, out io.Writer) (int, error) {
	d, err := newDecoder(w)
	if err != nil {
		return 0, err
	}
	obs, err := observerFor(d, size, nil)
	if err != nil {
		return 0, err
	}
	go obs.Start()
	for i, p := range payloads {
		feed(obs, d, i, p)
	}
	waitIdle(obs)
	dir, err := os.MkdirTemp("", "oracle")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	sock := filepath.Join(dir, "hubble.sock")
	srv, err := serveObserver(obs, serveroption.WithUnixSocketListener(quiet, sock), onePeer{})
	if err != nil {
		return 0, err
	}
	defer srv.Stop()
	conn, err := dial("unix://" + sock)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	client := observerpb.NewObserverClient(conn)
	index := func(t *timestamppb.Timestamp) int { return int(t.AsTime().Sub(d.base).Nanoseconds() / w.StepNs) }
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for _, r := range list {
		a := answer{Name: r.name, Method: r.method, MaxFlows: size, Request: json.RawMessage(r.json), Result: []any{}}
		if err := ask(client, r, &a, index); err != nil {
			st := status.Convert(err)
			a.Code, a.Message = st.Code().String(), st.Message()
		}
		if len(a.Result) > 5 && !strings.Contains(r.json, "Mask") {
			a.Responses = nil
		}
		if err := enc.Encode(a); err != nil {
			return 0, err
		}
	}
	return len(list), nil
}

func ask(c observerpb.ObserverClient, r request, a *answer, index func(*timestamppb.Timestamp) int) error {
	ctx := context.Background()
	switch r.method {
	case "GetFlows":
		req := &observerpb.GetFlowsRequest{}
		if err := protojson.Unmarshal([]byte(r.json), req); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		s, err := c.GetFlows(ctx, req)
		for err == nil {
			var m *observerpb.GetFlowsResponse
			if m, err = s.Recv(); err == nil {
				if l := m.GetLostEvents(); l.GetSource() == flowpb.LostEventSource_HUBBLE_RING_BUFFER {
					a.Result = append(a.Result, map[string]uint64{"ring_lost": l.NumEventsLost})
					continue
				}
				if m.GetTime() == nil { // a field mask left the time out
					a.Result = append(a.Result, nil)
				} else {
					a.Result = append(a.Result, index(m.GetTime()))
				}
				a.Responses = append(a.Responses, protoJSON(m))
			}
		}
		return notEOF(err)
	case "GetAgentEvents":
		req := &observerpb.GetAgentEventsRequest{}
		if err := protojson.Unmarshal([]byte(r.json), req); err != nil {
			return err
		}
		s, err := c.GetAgentEvents(ctx, req)
		for err == nil {
			var m *observerpb.GetAgentEventsResponse
			if m, err = s.Recv(); err == nil {
				a.Result = append(a.Result, index(m.GetTime()))
				a.Responses = append(a.Responses, protoJSON(m))
			}
		}
		return notEOF(err)
	case "GetDebugEvents":
		req := &observerpb.GetDebugEventsRequest{}
		if err := protojson.Unmarshal([]byte(r.json), req); err != nil {
			return err
		}
		s, err := c.GetDebugEvents(ctx, req)
		for err == nil {
			var m *observerpb.GetDebugEventsResponse
			if m, err = s.Recv(); err == nil {
				a.Result = append(a.Result, index(m.GetTime()))
				a.Responses = append(a.Responses, protoJSON(m))
			}
		}
		return notEOF(err)
	case "ServerStatus":
		m, err := c.ServerStatus(ctx, &observerpb.ServerStatusRequest{})
		if err == nil {
			m.UptimeNs, m.FlowsRate = 0, 0 // not reproducible
			a.Responses = append(a.Responses, protoJSON(m))
		}
		return err
	case "GetNodes":
		m, err := c.GetNodes(ctx, &observerpb.GetNodesRequest{})
		if err == nil {
			a.Responses = append(a.Responses, protoJSON(m))
		}
		return err
	case "GetNamespaces":
		m, err := c.GetNamespaces(ctx, &observerpb.GetNamespacesRequest{})
		if err == nil {
			a.Responses = append(a.Responses, protoJSON(m))
		}
		return err
	}
	return fmt.Errorf("unknown method %s", r.method)
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// requests is the list put to Hubble's server with everything in the ring.
func requests(w *World, n int) []request {
	var out []request
	add := func(name, json string) { out = append(out, request{name, "GetFlows", json}) }
	at := func(i int) string { return w.timeOf(i).Format("2006-01-02T15:04:05.999999999Z07:00") }
	one := func(name, filter string) { add(name, `{"whitelist":[`+filter+`]}`) }

	add("everything", `{}`)
	add("last-20", `{"number":20}`)
	add("first-20", `{"number":20,"first":true}`)
	add("number-beyond", `{"number":100000}`)
	add("since", `{"since":"`+at(n/2)+`"}`)
	add("since-number", `{"since":"`+at(n/2)+`","number":10}`)
	add("since-until", `{"since":"`+at(100)+`","until":"`+at(200)+`"}`)
	add("until", `{"until":"`+at(50)+`"}`)
	add("until-number", `{"until":"`+at(50)+`","number":10}`)
	add("first-until", `{"first":true,"number":500,"until":"`+at(50)+`"}`)
	add("first-since", `{"first":true,"number":5,"since":"`+at(300)+`"}`)
	add("since-future", `{"since":"`+at(n+1000)+`"}`)
	add("first-and-follow", `{"first":true,"follow":true}`)
	add("number-with-filter", `{"number":7,"whitelist":[{"verdict":["DROPPED"]}]}`)
	add("first-with-filter", `{"number":7,"first":true,"whitelist":[{"verdict":["DROPPED"]}]}`)
	one("uuid", `{"uuid":["`+w.UUIDPrefix+fmt.Sprintf("%012x", 3)+`","`+w.UUIDPrefix+fmt.Sprintf("%012x", 9)+`"]}`)
	one("source-ip", `{"source_ip":["`+w.Endpoints[3].IPv4+`"]}`)
	one("source-ip-cidr", `{"source_ip":["10.0.0.0/26","fd00:1::/64"]}`)
	one("source-ip-bad", `{"source_ip":["10.0.0.0/99"]}`)
	one("source-ip-xlated", `{"source_ip_xlated":["192.168.10.0/24"]}`)
	one("destination-ip", `{"destination_ip":["203.0.113.0/24","8.8.8.8"]}`)
	one("source-pod", `{"source_pod":["shop/frontend-"]}`)
	one("source-pod-namespace", `{"source_pod":["payments/"]}`)
	one("destination-pod-default-ns", `{"destination_pod":["loadgen"]}`)
	one("pod-any-namespace", `{"source_pod":["/cart"]}`)
	one("source-fqdn", `{"source_fqdn":["*.example.com"]}`)
	one("destination-fqdn", `{"destination_fqdn":["api.example.com","cdn.*"]}`)
	one("fqdn-empty", `{"destination_fqdn":[""]}`)
	one("source-label", `{"source_label":["k8s:app=cart"]}`)
	one("label-any-source", `{"destination_label":["app in (cart, redis)"]}`)
	one("label-negated", `{"source_label":["app!=cart,k8s:io.kubernetes.pod.namespace"]}`)
	one("label-reserved", `{"destination_label":["reserved:world"]}`)
	one("label-bad", `{"source_label":["a in ("]}`)
	one("source-service", `{"source_service":["shop/"]}`)
	one("destination-service", `{"destination_service":["kube-system/kube-dns","shop/fro"]}`)
	one("workload", `{"source_workload":[{"name":"frontend","kind":"Deployment"},{"kind":"CronJob"}]}`)
	one("workload-name", `{"destination_workload":[{"name":"redis"}]}`)
	one("cluster-name", `{"source_cluster_name":["oracle"],"destination_cluster_name":["oracle"]}`)
	one("direction", `{"traffic_direction":["EGRESS"]}`)
	one("direction-unknown", `{"traffic_direction":["TRAFFIC_DIRECTION_UNKNOWN"]}`)
	one("verdict", `{"verdict":["REDIRECTED","AUDIT","ERROR"]}`)
	one("drop-reason", `{"drop_reason_desc":["POLICY_DENIED","CT_MAP_INSERTION_FAILED"]}`)
	one("interface-name", `{"interface":[{"name":"eth0"}]}`)
	one("interface-index", `{"interface":[{"index":5},{"name":"cilium_host","index":4}]}`)
	one("event-type", `{"event_type":[{"type":5}]}`)
	one("event-sub-type", `{"event_type":[{"type":4,"match_sub_type":true,"sub_type":0},{"type":1,"match_sub_type":true,"sub_type":155}]}`)
	one("http-status", `{"http_status_code":["200","4+"]}`)
	one("http-status-bad", `{"http_status_code":["999"]}`)
	one("protocol", `{"protocol":["udp","http"]}`)
	one("protocol-icmp", `{"protocol":["icmp"]}`)
	one("protocol-sctp-vrrp", `{"protocol":["sctp","vrrp","igmp","icmpv6"]}`)
	one("protocol-bad", `{"protocol":["nonsense"]}`)
	one("source-port", `{"source_port":["40000"]}`)
	one("destination-port", `{"destination_port":["53","443"]}`)
	one("port-bad", `{"source_port":["99999"]}`)
	one("reply", `{"reply":[true]}`)
	one("reply-false", `{"reply":[false]}`)
	one("dns-query", `{"dns_query":[".*example.com.*","^odd"]}`)
	one("dns-query-bad", `{"dns_query":["("]}`)
	one("source-identity", `{"source_identity":[1207,2]}`)
	one("destination-identity", `{"destination_identity":[16777217,16777226]}`)
	one("http-method", `{"http_method":["get","POST"]}`)
	one("http-path", `{"http_path":["/cart/.*"]}`)
	one("http-url", `{"http_url":["http://frontend.*"]}`)
	one("http-header", `{"http_header":[{"key":"User-Agent","value":"loadgen/1.2"}]}`)
	one("tcp-flags", `{"tcp_flags":[{"SYN":true},{"FIN":true,"ACK":true}]}`)
	one("node-name", `{"node_name":["oracle/node-a"]}`)
	one("node-name-pattern", `{"node_name":["node-*","other/"]}`)
	one("node-name-default", `{"node_name":["default/node-a"]}`)
	one("node-labels", `{"node_labels":["topology.kubernetes.io/zone=z1"]}`)
	one("node-labels-none", `{"node_labels":["zone=z9"]}`)
	one("ip-version", `{"ip_version":["IPv6"]}`)
	one("trace-id", `{"trace_id":["4bf92f3577b34da6a3ce929d0e0e4736"]}`)
	one("ip-trace-id", `{"ip_trace_id":["1048576","77"]}`)
	one("encrypted", `{"encrypted":[true]}`)
	one("not-encrypted", `{"encrypted":[false]}`)
	one("cel", `{"experimental":{"cel_expression":["_flow.verdict == Verdict.DROPPED && _flow.l4.TCP.destination_port == uint(8080)"]}}`)
	one("cel-bad", `{"experimental":{"cel_expression":["_flow.nope == 1"]}}`)
	one("and-of-fields", `{"verdict":["DROPPED"],"protocol":["tcp"],"source_pod":["shop/"],"traffic_direction":["EGRESS"]}`)
	add("or-of-filters", `{"whitelist":[{"protocol":["sctp"]},{"event_type":[{"type":129}],"verdict":["DROPPED"]}]}`)
	add("blacklist", `{"blacklist":[{"event_type":[{"type":4}]},{"verdict":["DROPPED"]}]}`)
	add("white-and-black", `{"number":50,"whitelist":[{"source_pod":["shop/"]}],"blacklist":[{"protocol":["tcp"]}]}`)
	add("empty-filter", `{"number":5,"whitelist":[{}]}`)
	add("field-mask", `{"number":3,"first":true,"fieldMask":"time,uuid,source.podName,destination.identity,l4"}`)
	add("field-mask-mixed", `{"first":true,"number":4,"whitelist":[{"protocol":["dns"]}],"fieldMask":"time,l7.dns.query,l7.type,isReply,eventType"}`)
	add("field-mask-no-time", `{"number":2,"first":true,"fieldMask":"verdict"}`)
	add("field-mask-whole", `{"number":2,"first":true,"fieldMask":"time,source,source.podName"}`)
	add("field-mask-bad", `{"number":2,"fieldMask":"noSuchField"}`)
	add("field-mask-empty", `{"number":2,"first":true,"fieldMask":""}`)
	requestsExtra(add)
	for _, m := range []string{"GetAgentEvents", "GetDebugEvents"} {
		out = append(out, request{"all", m, `{}`}, request{"last-3", m, `{"number":3}`}, request{"first-3", m, `{"number":3,"first":true}`},
			request{"since", m, `{"since":"` + at(n/2) + `"}`}, request{"first-and-follow", m, `{"first":true,"follow":true}`})
	}
	return append(out, request{"status", "ServerStatus", `{}`}, request{"nodes", "GetNodes", `{}`}, request{"namespaces", "GetNamespaces", `{}`})
}

// smallRingRequests shows what overwriting does.
func smallRingRequests(w *World, n int) []request {
	at := func(i int) string { return w.timeOf(i).Format("2006-01-02T15:04:05.999999999Z07:00") }
	return []request{
		{"everything", "GetFlows", `{}`},
		{"first-5", "GetFlows", `{"first":true,"number":5}`},
		{"last-1000", "GetFlows", `{"number":1000}`},
		{"since-start", "GetFlows", `{"since":"` + at(0) + `"}`},
		{"filter", "GetFlows", `{"number":5,"whitelist":[{"event_type":[{"type":129}]}]}`},
		{"status", "ServerStatus", `{}`},
		{"agent", "GetAgentEvents", `{}`},
	}
}

// metricConfigs are the configurations whose text is written, by file name.
var metricConfigs = map[string]string{
	"default":         "dns drop tcp flow port-distribution icmp http",
	"all-handlers":    "dns:query drop tcp flow port-distribution icmp httpV2 kafka policy flows-to-world",
	"source-pod":      "dns:query;sourceContext=pod drop:sourceContext=pod;destinationContext=pod tcp:sourceContext=pod flow:sourceContext=pod;destinationContext=pod port-distribution:sourceContext=namespace icmp:destinationContext=ip",
	"workload":        "flow:sourceContext=workload-name|reserved-identity;destinationContext=workload-name|reserved-identity|dns drop:sourceContext=workload;destinationContext=workload tcp:sourceContext=app;destinationContext=app|dns|ip",
	"labels-context":  "dns:query;labelsContext=source_namespace,destination_namespace,source_pod drop:labelsContext=source_ip,source_pod,source_namespace,source_workload,source_workload_kind,source_app,destination_ip,destination_pod,destination_namespace,destination_workload,destination_workload_kind,destination_app,traffic_direction flow:labelsContext=source_namespace,destination_namespace,traffic_direction tcp:labelsContext=source_workload,destination_workload icmp:labelsContext=source_namespace port-distribution:labelsContext=destination_app",
	"identity":        "flow:sourceContext=identity;destinationContext=identity drop:sourceContext=reserved-identity;destinationContext=reserved-identity tcp:sourceContext=namespace;destinationContext=namespace port-distribution:sourceContext=pod-name",
	"ingress-egress":  "flow:sourceEgressContext=pod;sourceIngressContext=workload-name;destinationEgressContext=dns;destinationIngressContext=namespace drop:sourceEgressContext=app;sourceIngressContext=ip;destinationEgressContext=dns|ip;destinationIngressContext=pod",
	"dns-options":     "dns:ignoreAAAA;sourceContext=workload-name;destinationContext=dns",
	"dns-query-label": "dns:query;labelsContext=source_workload,source_namespace",
	"http":            "http:sourceContext=workload-name;destinationContext=workload-name",
	"httpv2":          "httpV2:exemplars=true;labelsContext=source_namespace,source_workload,destination_namespace,destination_workload,traffic_direction",
	"httpv2-context":  "httpV2:sourceContext=pod;destinationContext=pod",
	"kafka":           "kafka:sourceContext=namespace;destinationContext=workload-name",
	"policy":          "policy:sourceContext=app|workload-name|pod|reserved-identity;destinationContext=app|workload-name|pod|dns|reserved-identity;labelsContext=source_namespace,destination_namespace",
	"to-world":        "flows-to-world:any-drop;port;syn-only;labelsContext=source_namespace,source_workload",
	"to-world-plain":  "flows-to-world:sourceContext=namespace",
}

func runMetrics(args []string) error {
	fs := flag.NewFlagSet("metrics", flag.ExitOnError)
	stream := fs.String("stream", "", "stream file")
	world := fs.String("world", "", "world.json")
	out := fs.String("out", "", "directory for <name>.prom.gz and configs.json")
	one := fs.String("metrics", "", "only this configuration, printed to standard output")
	fs.Parse(args)
	w, err := loadWorld(*world)
	if err != nil {
		return err
	}
	payloads, err := readStream(*stream)
	if err != nil {
		return err
	}
	if *one != "" {
		text, err := metricsText(w, payloads, *one)
		os.Stdout.Write(text)
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	for name, cfg := range metricConfigs {
		text, err := metricsText(w, payloads, cfg)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		var b bytes.Buffer
		z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
		z.Write(text)
		z.Close()
		if err := os.WriteFile(filepath.Join(*out, name+".prom.gz"), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	raw, _ := json.MarshalIndent(metricConfigs, "", " ")
	return os.WriteFile(filepath.Join(*out, "configs.json"), append(raw, '\n'), 0o644)
}

// metricsText feeds every flow to the handlers and renders the registry.
func metricsText(w *World, payloads []*payload.Payload, cfg string) ([]byte, error) {
	reg := prometheus.NewPedanticRegistry()
	handlers, err := metricHandlers(reg, cfg)
	if err != nil {
		return nil, err
	}
	d, err := newDecoder(w)
	if err != nil {
		return nil, err
	}
	proc := metrics.NewStaticFlowProcessor(quiet, handlers)
	for i, p := range payloads {
		ev, err := d.decode(d.parser, i, p)
		if err != nil {
			continue
		}
		if f, ok := ev.Event.(*flowpb.Flow); ok {
			if _, err := proc.OnDecodedFlow(context.Background(), f); err != nil {
				return nil, err
			}
		}
	}
	families, err := reg.Gather()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}
