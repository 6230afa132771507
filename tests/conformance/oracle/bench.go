package main

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"github.com/cilium/cilium/pkg/bufuuid"
	"github.com/cilium/cilium/pkg/hubble/container"
	"github.com/cilium/cilium/pkg/hubble/metrics"
	observerTypes "github.com/cilium/cilium/pkg/hubble/observer/types"
	"github.com/cilium/cilium/pkg/hubble/server/serveroption"
	"github.com/cilium/cilium/pkg/monitor/payload"
)

func init() {
	commands["bench"] = command{"throughput of Hubble's own path over a stream", runBench}
}

const benchMetrics = "flow drop tcp dns port-distribution icmp"

type figure struct {
	Name      string  `json:"name"`
	Procs     int     `json:"gomaxprocs"`
	PerSecond float64 `json:"per_second"` // median of the rounds
	Best      float64 `json:"best"`
	Worst     float64 `json:"worst"`
	NsPer     float64 `json:"ns_per_event"`
	CPUShare  float64 `json:"cpu_per_wall"`   // CPU seconds of this process per second of wall time
	PerCPU    float64 `json:"per_cpu_second"` // events per CPU second: the figure to trust on a busy machine
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// measure repeats pass (which returns how many events it handled) for about
// the given time per round.
func measure(name string, procs, rounds int, per time.Duration, pass func() int) figure {
	runtime.GOMAXPROCS(procs)
	pass() // warm up
	var rates []float64
	cpu, wall, total := 0.0, 0.0, 0
	for range rounds {
		runtime.GC()
		n, begin, c0 := 0, time.Now(), cpuSeconds()
		for time.Since(begin) < per {
			n += pass()
		}
		el := time.Since(begin).Seconds()
		rates = append(rates, float64(n)/el)
		cpu, wall, total = cpu+cpuSeconds()-c0, wall+el, total+n
	}
	sort.Float64s(rates)
	mid := rates[len(rates)/2]
	return figure{name, procs, mid, rates[len(rates)-1], rates[0], 1e9 / mid, cpu / wall, float64(total) / cpu}
}

func runBench(args []string) error {
	fs := flag.NewFlagSet("bench", flag.ExitOnError)
	stream := fs.String("stream", "", "stream file")
	world := fs.String("world", "", "world.json")
	rounds := fs.Int("rounds", 3, "rounds per figure")
	per := fs.Duration("per", 2*time.Second, "time per round")
	only := fs.String("only", "", "one figure, on one core")
	fs.Parse(args)
	w, err := loadWorld(*world)
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(*stream)
	if err != nil {
		return err
	}
	payloads, err := readStream(*stream)
	if err != nil {
		return err
	}
	uuider := bufuuid.New()
	node := w.nodeName()
	// event is what Hubble's consumer does: stamp time, name and uuid.
	event := func(p *payload.Payload) *observerTypes.MonitorEvent {
		ev, err := toEvent(p, [16]byte{}, time.Now(), node)
		if err != nil {
			return nil
		}
		uuider.NewInto(&ev.UUID)
		return ev
	}
	// each runs f on every payload of the stream, decoded from its bytes.
	each := func(f func(*payload.Payload)) int {
		dec := gob.NewDecoder(bytes.NewReader(raw))
		n := 0
		for {
			p := &payload.Payload{}
			if err := p.DecodeBinary(dec); err != nil {
				if errors.Is(err, io.EOF) {
					return n
				}
				panic(err)
			}
			f(p)
			n++
		}
	}
	var out []figure
	cores := []int{1, 2}
	if *only != "" {
		cores = []int{1}
	}
	for _, procs := range cores {
		d, err := newDecoder(w)
		if err != nil {
			return err
		}
		handlers, err := metricHandlers(prometheus.NewPedanticRegistry(), benchMetrics)
		if err != nil {
			return err
		}
		proc := metrics.NewStaticFlowProcessor(quiet, handlers)
		ring := container.NewRing(container.Capacity4095)
		ctx := context.Background()
		events := make([]*observerTypes.MonitorEvent, 0, len(payloads))
		for _, p := range payloads {
			if ev := event(p); ev != nil {
				events = append(events, ev)
			}
		}
		bench := func(name string, pass func() int) {
			if *only != "" && *only != name {
				return
			}
			f := measure(name, procs, *rounds, *per, pass)
			out = append(out, f)
			json.NewEncoder(os.Stderr).Encode(f)
		}
		bench("gob-decode", func() int { return each(func(*payload.Payload) {}) })
		bench("parse", func() int {
			for _, ev := range events {
				d.parser.Decode(ev)
			}
			return len(events)
		})
		bench("decode+parse", func() int {
			return each(func(p *payload.Payload) {
				if ev := event(p); ev != nil {
					d.parser.Decode(ev)
				}
			})
		})
		bench("decode+parse+metrics", func() int {
			return each(func(p *payload.Payload) {
				if ev := event(p); ev != nil {
					if e, err := d.parser.Decode(ev); err == nil {
						if f, ok := e.Event.(*flowpb.Flow); ok {
							proc.OnDecodedFlow(ctx, f)
						}
					}
				}
			})
		})
		bench("decode+parse+ring", func() int {
			return each(func(p *payload.Payload) {
				if ev := event(p); ev != nil {
					if e, err := d.parser.Decode(ev); err == nil {
						ring.Write(e)
					}
				}
			})
		})
		bench("decode+parse+metrics+ring", func() int {
			return each(func(p *payload.Payload) {
				if ev := event(p); ev != nil {
					if e, err := d.parser.Decode(ev); err == nil {
						if f, ok := e.Event.(*flowpb.Flow); ok {
							proc.OnDecodedFlow(ctx, f)
						}
						ring.Write(e)
					}
				}
			})
		})
		if *only != "" {
			continue
		}
		f, err := benchGetFlows(d, payloads, procs, *rounds)
		if err != nil {
			return err
		}
		out = append(out, f)
		json.NewEncoder(os.Stderr).Encode(f)
	}
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"stream": filepath.Base(*stream), "payloads": len(payloads), "bytes": len(raw), "go": runtime.Version(), "cpus": runtime.NumCPU(),
		"max_rss_kb": u.Maxrss, "figures": out,
	})
}

// benchGetFlows fills a ring of 65535 and lets another process drain it over
// a unix socket.
func benchGetFlows(d *decoder, payloads []*payload.Payload, procs, rounds int) (figure, error) {
	runtime.GOMAXPROCS(procs)
	dir, err := os.MkdirTemp("", "oracle")
	if err != nil {
		return figure{}, err
	}
	defer os.RemoveAll(dir)
	obs, err := observerFor(d, 65535, nil)
	if err != nil {
		return figure{}, err
	}
	go obs.Start()
	for i := 0; i < 66000; i++ {
		feed(obs, d, i, payloads[i%len(payloads)])
	}
	waitIdle(obs)
	sock := filepath.Join(dir, "hubble.sock")
	srv, err := serveObserver(obs, serveroption.WithUnixSocketListener(quiet, sock), onePeer{})
	if err != nil {
		return figure{}, err
	}
	defer srv.Stop()
	exe, err := os.Executable()
	if err != nil {
		return figure{}, err
	}
	var rates []float64
	cpu, wall, total := 0.0, 0.0, 0
	for range rounds {
		runtime.GC()
		c0 := cpuSeconds()
		text := &bytes.Buffer{}
		cmd := exec.Command(exe, "drain", "--target", "unix://"+sock, "--number", "65000")
		cmd.Stderr = text
		if err := cmd.Run(); err != nil {
			return figure{}, err
		}
		var r struct {
			Rate    float64 `json:"flows_per_second"`
			Seconds float64 `json:"seconds"`
			Flows   int     `json:"flows"`
		}
		if err := json.Unmarshal(text.Bytes(), &r); err != nil {
			return figure{}, err
		}
		rates = append(rates, r.Rate)
		cpu, wall, total = cpu+cpuSeconds()-c0, wall+r.Seconds, total+r.Flows
	}
	sort.Float64s(rates)
	mid := rates[len(rates)/2]
	return figure{"getflows-unix-socket (server side)", procs, mid, rates[len(rates)-1], rates[0], 1e9 / mid, cpu / wall, float64(total) / cpu}, nil
}
