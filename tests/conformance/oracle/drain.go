package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	observerpb "github.com/cilium/cilium/api/v1/observer"
)

func init() {
	commands["drain"] = command{"GetFlows client: counts flows per second, can print them", runDrain}
}

func dial(target string) (*grpc.ClientConn, error) {
	return grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
}

func runDrain(args []string) error {
	fs := flag.NewFlagSet("drain", flag.ExitOnError)
	target := fs.String("target", "", "unix:///path or host:port")
	number := fs.Uint64("number", 0, "GetFlowsRequest.number")
	first := fs.Bool("first", false, "oldest instead of newest")
	follow := fs.Bool("follow", false, "keep following")
	request := fs.String("request", "", "whole GetFlowsRequest as protojson (overrides the above)")
	print := fs.Bool("print", false, "print every response as protojson")
	limit := fs.Duration("duration", 0, "stop after this long")
	fs.Parse(args)
	req := &observerpb.GetFlowsRequest{Number: *number, First: *first, Follow: *follow}
	if *request != "" {
		req = &observerpb.GetFlowsRequest{}
		if err := protojson.Unmarshal([]byte(*request), req); err != nil {
			return err
		}
	}
	conn, err := dial(*target)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if *limit > 0 {
		time.AfterFunc(*limit, cancel)
	}
	s, err := observerpb.NewObserverClient(conn).GetFlows(ctx, req)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	flows, lostEvents, others := 0, uint64(0), 0
	var begin time.Time
	for {
		resp, err := s.Recv()
		if begin.IsZero() {
			begin = time.Now()
		}
		if err != nil {
			if errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled {
				break
			}
			return err
		}
		switch r := resp.GetResponseTypes().(type) {
		case *observerpb.GetFlowsResponse_Flow:
			flows++
		case *observerpb.GetFlowsResponse_LostEvents:
			lostEvents += r.LostEvents.GetNumEventsLost()
		default:
			others++
		}
		if *print {
			out.Write(append(protoJSON(resp), '\n'))
		}
	}
	el := time.Since(begin).Seconds()
	return json.NewEncoder(os.Stderr).Encode(map[string]any{"flows": flows, "lost": lostEvents, "other": others, "seconds": el, "flows_per_second": float64(flows) / el})
}
