package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	grpc_prometheus "github.com/grpc-ecosystem/go-grpc-prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	"github.com/cilium/cilium/pkg/hubble/build"
	"github.com/cilium/cilium/pkg/hubble/container"
	"github.com/cilium/cilium/pkg/hubble/defaults"
	"github.com/cilium/cilium/pkg/hubble/metrics"
	metricsAPI "github.com/cilium/cilium/pkg/hubble/metrics/api"
	"github.com/cilium/cilium/pkg/hubble/observer"
	"github.com/cilium/cilium/pkg/hubble/observer/namespace"
	"github.com/cilium/cilium/pkg/hubble/observer/observeroption"
	"github.com/cilium/cilium/pkg/hubble/server"
	"github.com/cilium/cilium/pkg/hubble/server/serveroption"
	"github.com/cilium/cilium/pkg/monitor/payload"
	nodeTypes "github.com/cilium/cilium/pkg/node/types"
	"github.com/cilium/cilium/pkg/option"
)

func init() {
	commands["hubble"] = command{"run Hubble's own server (and metrics) over a stream", runHubble}
}

// observerFor builds Hubble's observer the way the agent does: node labels
// first, then metrics.
func observerFor(d *decoder, maxFlows int, handlers []metricsAPI.NamedHandler) (*observer.LocalObserverServer, error) {
	option.Config.ClusterName = d.world.Node.Cluster
	nodeTypes.SetName(d.world.Node.Name)
	capacity, err := container.NewCapacity(maxFlows)
	if err != nil {
		return nil, err
	}
	opts := []observeroption.Option{
		observeroption.WithMaxFlows(capacity),
		observeroption.WithMonitorBuffer(4096),
		observeroption.WithLostEventSendInterval(time.Second),
		observeroption.WithOnDecodedFlowFunc(func(_ context.Context, f *flowpb.Flow) (bool, error) {
			f.NodeLabels = d.world.Node.Labels
			return false, nil
		}),
	}
	if len(handlers) > 0 {
		proc := metrics.NewStaticFlowProcessor(quiet, handlers)
		opts = append(opts, observeroption.WithOnDecodedFlowFunc(func(ctx context.Context, f *flowpb.Flow) (bool, error) {
			return false, proc.ProcessFlow(ctx, f)
		}))
	}
	return observer.NewLocalServer(d.parser, namespace.NewManager(), quiet, opts...)
}

// feed pushes payload i (and its deterministic time and uuid) to the observer.
func feed(obs *observer.LocalObserverServer, d *decoder, i int, p *payload.Payload) {
	if ev, err := d.event(i, p); err == nil {
		obs.GetEventsChannel() <- ev
	}
}

// waitIdle returns when the observer has taken everything from its queue.
func waitIdle(obs *observer.LocalObserverServer) {
	for len(obs.GetEventsChannel()) > 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond) // the last one may still be in the parser
}

// metricHandlers parses a list as the agent's hubble-metrics option does:
// metrics separated by spaces, each name or name:opt=value;opt2.
func metricHandlers(reg *prometheus.Registry, list string) ([]metricsAPI.NamedHandler, error) {
	h, err := metrics.InitMetricHandlers(quiet, reg, metricsAPI.ParseStaticMetricsConfig(strings.Fields(list)))
	if err != nil {
		return nil, err
	}
	return *h, nil
}

// onePeer answers Hubble's peer service with this server alone.
type onePeer struct {
	peerpb.UnimplementedPeerServer
	name, addr string
}

func (p onePeer) Notify(_ *peerpb.NotifyRequest, s peerpb.Peer_NotifyServer) error {
	if err := s.Send(&peerpb.ChangeNotification{Name: p.name, Address: p.addr, Type: peerpb.ChangeNotificationType_PEER_ADDED}); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

func versionHeader() (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	md := metadata.Pairs(defaults.GRPCMetadataServerVersionKey, build.ServerVersion.SemVer())
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			resp, err := h(ctx, req)
			grpc.SetHeader(ctx, md)
			return resp, err
		}, func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			ss.SetHeader(md)
			return h(srv, ss)
		}
}

// serveObserver starts Hubble's gRPC server for an observer.
func serveObserver(obs *observer.LocalObserverServer, listen serveroption.Option, peer peerpb.PeerServer) (*server.Server, error) {
	unary, stream := versionHeader()
	srv, err := server.NewServer(quiet, listen, serveroption.WithHealthService(), serveroption.WithObserverService(obs),
		serveroption.WithPeerService(peer), serveroption.WithInsecure(),
		serveroption.WithGRPCUnaryInterceptor(unary), serveroption.WithGRPCStreamInterceptor(stream))
	if err == nil {
		go srv.Serve()
	}
	return srv, err
}

func runHubble(args []string) error {
	fs := flag.NewFlagSet("hubble", flag.ExitOnError)
	stream := fs.String("stream", "", "stream file")
	world := fs.String("world", "", "world.json")
	socket := fs.String("socket", "", "unix socket to serve")
	listen := fs.String("listen", "", "host:port to serve as well")
	maxFlows := fs.Int("max-flows", 4095, "ring capacity, 2^n-1 up to 65535")
	rate := fs.Float64("rate", 0, "payloads per second; 0 = all at once before serving")
	loop := fs.Bool("loop", false, "with --rate: start again at the end")
	live := fs.Bool("live", false, "stamp events with the present time instead of the deterministic one")
	metricsListen := fs.String("metrics-listen", "", "host:port for /metrics")
	metricsList := fs.String("metrics", "dns drop tcp flow port-distribution icmp", "metrics, separated by spaces, as in the agent's option")
	openMetrics := fs.Bool("open-metrics", false, "offer the OpenMetrics format")
	fs.Parse(args)
	w, err := loadWorld(*world)
	if err != nil {
		return err
	}
	payloads, err := readStream(*stream)
	if err != nil {
		return err
	}
	d, err := newDecoder(w)
	if err != nil {
		return err
	}
	var handlers []metricsAPI.NamedHandler
	if *metricsListen != "" {
		if err := metrics.InitMetrics(quiet, metrics.Registry, metricsAPI.ParseStaticMetricsConfig(strings.Fields(*metricsList)), grpc_prometheus.NewServerMetrics()); err != nil {
			return err
		}
		handlers = metrics.EnabledMetrics
		go http.ListenAndServe(*metricsListen, metrics.ServerHandler(metrics.Registry, *openMetrics))
	}
	obs, err := observerFor(d, *maxFlows, handlers)
	if err != nil {
		return err
	}
	go obs.Start()
	push := func(i int) {
		if *live {
			d.base = time.Now().Add(-time.Duration(int64(i) * w.StepNs))
		}
		feed(obs, d, i, payloads[i%len(payloads)])
	}
	if *rate == 0 {
		for i := range payloads {
			push(i)
		}
		waitIdle(obs)
	}
	addr := *listen
	if addr == "" {
		addr = "unix://" + *socket
	}
	peer := onePeer{name: w.nodeName(), addr: addr}
	if *socket != "" {
		if _, err := serveObserver(obs, serveroption.WithUnixSocketListener(quiet, *socket), peer); err != nil {
			return err
		}
	}
	if *listen != "" {
		if _, err := serveObserver(obs, serveroption.WithTCPListener(*listen), peer); err != nil {
			return err
		}
	}
	fmt.Fprintln(os.Stderr, "serving", len(payloads), "payloads")
	if *rate > 0 {
		begin := time.Now()
		for i := 0; *loop || i < len(payloads); i++ {
			if wait := time.Until(begin.Add(time.Duration(float64(i) / *rate * float64(time.Second)))); wait > 0 {
				time.Sleep(wait)
			}
			push(i)
		}
	}
	select {}
}
