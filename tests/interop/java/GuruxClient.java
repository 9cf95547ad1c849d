import gurux.dlms.*;
import gurux.dlms.enums.*;
import gurux.dlms.internal.GXCommon;
import gurux.dlms.objects.*;
import gurux.dlms.secure.GXDLMSSecureClient;
import java.net.Socket;
import java.util.*;

/** The client of gurux.dlms.java: one association with everything it can do, or only `energy` twice. */
public class GuruxClient {
    static final Map<String, Authentication> MECHANISMS = Map.of("0", Authentication.NONE, "1", Authentication.LOW,
            "5", Authentication.HIGH_GMAC, "6", Authentication.HIGH_SHA256);
    final GXDLMSSecureClient client;
    final Socket link;

    /** Arguments: port, mechanism, carrier, protection, title, keys, secret, what to do. */
    public static void main(String[] a) throws Exception {
        new GuruxClient(a).run(a[8].equals("everything"));
    }

    GuruxClient(String[] a) throws Exception {
        link = new Socket("127.0.0.1", Integer.parseInt(a[0]));
        link.setSoTimeout(5000);
        String password = a[1].equals("1") || a[1].equals("6") ? a[7] : null;
        client = new GXDLMSSecureClient(true, 16, 1, MECHANISMS.get(a[1]), password, InterfaceType.WRAPPER);
        client.getCiphering().setSystemTitle(GXCommon.hexToBytes(a[4]));
        client.getCiphering().setBlockCipherKey(GXCommon.hexToBytes(a[5]));
        client.getCiphering().setAuthenticationKey(GXCommon.hexToBytes(a[6]));
        client.getCiphering().setInvocationCounter(100);
        Map<String, Security> kinds = Map.of("none", Security.NONE, "auth", Security.AUTHENTICATION, "auth+enc",
                Security.AUTHENTICATION_ENCRYPTION);
        client.getCiphering().setSecurity(kinds.get(a[3]));
        // Without it the proof of mechanism 5 and the APDU that carries it have one counter.
        client.setIncreaseInvocationCounterForGMacAuthentication(!a[8].equals("as it comes"));
        client.setUseProtectedRelease(!a[3].equals("none"));
        if (a[2].startsWith("general")) {
            client.getProposedConformance().add(Conformance.GENERAL_PROTECTION);
        } else {
            client.getProposedConformance().remove(Conformance.GENERAL_PROTECTION);
        }
        if (a[2].endsWith("ded")) {
            client.getCiphering().setDedicatedKey("0123456789ABCDEF".getBytes());
        }
    }

    void run(boolean everything) throws Exception {
        client.parseAareResponse(ask(client.aarqRequest()).getData());
        if (client.getAuthentication().getValue() > Authentication.LOW.getValue()) {
            GXReplyData answer = ask(client.getApplicationAssociationRequest());
            client.parseApplicationAssociationResponse(answer.getData());
        }
        GXDLMSRegister energy = new GXDLMSRegister("1.0.1.8.0.255");
        System.out.println("energy " + read(energy, 2) + " " + read(energy, 2));
        if (!everything) {
            return;
        }
        GXDLMSProfileGeneric profile = new GXDLMSProfileGeneric("1.0.99.1.0.255");
        read(profile, 3);
        Object[] whole = (Object[]) read(profile, 2);
        show("rows", whole);
        GXReplyData part = ask(client.readRowsByEntry(profile, 11, 4));
        show("entry", (Object[]) client.updateValue(profile, 2, part.getValue()));
        GXDateTime first = (GXDateTime) cell(whole[20], 0);
        GXDateTime last = (GXDateTime) cell(whole[29], 0);
        part = ask(client.readRowsByRange(profile, first, last));
        show("range", (Object[]) client.updateValue(profile, 2, part.getValue()));
        GXDLMSData written = new GXDLMSData("0.0.96.1.9.255");
        written.setDataType(2, DataType.OCTET_STRING);
        written.setValue("stranger".getBytes());
        ask(client.write(written, 2));
        System.out.println("written " + new String((byte[]) read(written, 2)));
        GXDLMSDisconnectControl item = new GXDLMSDisconnectControl("0.0.96.3.10.255");
        ask(item.remoteDisconnect(client));
        System.out.print("switch " + read(item, 2));
        ask(item.remoteReconnect(client));
        System.out.println(" " + read(item, 2));
        ask(client.releaseRequest());
        System.out.println("released");
    }

    static void show(String what, Object[] rows) {
        System.out.print(what);
        for (Object row : rows) {
            System.out.print(" " + cell(row, 2));
        }
        System.out.println();
    }

    static Object cell(Object row, int column) {
        return row instanceof List ? ((List<?>) row).get(column) : ((Object[]) row)[column];
    }

    Object read(GXDLMSObject item, int attribute) throws Exception {
        return client.updateValue(item, attribute, ask(client.read(item, attribute)).getValue());
    }

    GXReplyData ask(byte[][] frames) throws Exception {
        GXReplyData reply = new GXReplyData();
        for (byte[] frame : frames) {
            reply.clear();
            turn(frame, reply);
            while (reply.isMoreData()) {
                turn(client.receiverReady(reply), reply);
            }
        }
        if (reply.getError() != 0) {
            throw new RuntimeException("result " + reply.getError());
        }
        return reply;
    }

    void turn(byte[] frame, GXReplyData reply) throws Exception {
        link.getOutputStream().write(frame);
        GXByteBuffer received = new GXByteBuffer();
        byte[] part = new byte[4096];
        do {
            int count = link.getInputStream().read(part);
            if (count < 1) {
                throw new RuntimeException("the server hung up");
            }
            received.set(part, 0, count);
        } while (!client.getData(received, reply, new GXReplyData()));
    }
}
